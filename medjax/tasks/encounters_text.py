"""Words of simulated encounters: each matter as it is said in a visit (`Dr:`, `Pt:`) and as it is jotted down."""

# Matter -> ((said), (jotted)); the slots are filled by `encounters`. What is said may be several turns.
# ruff: noqa: E501
# fmt: off
MATTERS = {
  "who": (
    ("{title} {initial}, {age}.",),
    ("[{age} yo {person}|{age}-year-old {person}|{person}, {age}].",),
  ),
  "problem": (
    ("Pt: {told}, {count_word} {unit} now.", "Pt: {told} for {count} {unit}.", "Dr: What brings you in? Pt: {told}. {count} {unit} now."),
    ("[Comes with|Presents with|Reports] {problem} for {count} {unit}.", "{problem}, {count} {unit}."),
  ),
  "repeat": (
    ("Pt: As I said, {told}.", "Pt: It is really only the {short} that [bothers|worries] me."),
    ("Again: {short}, [unchanged|no better].", "[Main|Only] concern remains the {short}."),
  ),
  "denied": (
    ("Dr: Any {denied}? Pt: [No|None|Not at all].", "Dr: {denied}? Pt: No, nothing like that."),
    ("No {denied}.", "Denies {denied}."),
  ),
  "past": (
    ("Pt: I had {past} in {year}, all [gone|cleared] since.", "Pt: {past} back in {year}, that is [over|gone]."),
    ("{past_bare} {year}, resolved.", "Had {past} in {year}, [gone|resolved]."),
  ),
  "other_side": (
    ("Pt: The {other} {site} was operated in {year} and is fine.", "Pt: The {other} {site} had it in {year}, gone since."),
    ("{other} {site} operated {year}, fine.", "Had the {other} {site} injected in {year}, [resolved|fine]."),
  ),
  "finding": (
    ("Dr: [I see|I find|Here we have] {finding}.", "Dr: Now the result: {finding}.", "Dr: So, {finding}, that explains it."),
    ("{finding}.", "On exam {finding}.", "Found {finding}."),
  ),
  "normal": (
    ("Dr: {normal}, pulse {pulse}.", "Dr: {normal}, all good there."),
    ("{normal}, pulse {pulse}.", "{normal}, BP {bp}."),
  ),
  "start": (
    ("Dr: [I start you on|Take|You get] {drug} {dose} {drug_unit} {said_frequency}.", "Dr: We begin {drug}, {dose} {drug_unit}, {said_frequency}."),
    ("[Started|Given|Plan:] {drug} {dose} {drug_unit} {frequency}.", "{drug} {dose} {drug_unit} {frequency} started."),
  ),
  "raise": (
    ("Dr: Your {drug} goes up from {old} to {dose} {drug_unit} {said_frequency}.", "Dr: Let us raise {drug} from {old} {drug_unit} to {dose} {drug_unit} {said_frequency}."),
    ("{drug} raised from {old} to {dose} {drug_unit} {frequency}.", "{drug} from {old} {drug_unit} up to {dose} {drug_unit} {frequency}."),
  ),
  "standing": (
    ("Pt: I still take my {other_drug}, {other_dose}.", "Dr: Keep {other_drug} {other_dose} as it is."),
    ("Usual {other_drug} {other_dose} unchanged.", "Continues {other_drug} {other_dose}."),
  ),
  "allergy": (
    ("Dr: Allergies? Pt: {allergen}, I get [a rash|hives|swelling].", "Pt: I am allergic to {allergen}, remember."),
    ("Allergic to {allergen}.", "Allergies: {allergen} ([rash|hives|swelling])."),
  ),
  "no_allergy": (
    ("Dr: Allergies? Pt: None.", "Dr: Any allergies? Pt: No allergies.", "Pt: I am not allergic to anything."),
    ("Allergies: none.", "No known allergies."),
  ),
  "pending": (
    ("Dr: The {test} is [booked|ordered], we wait for it.", "Dr: {test} is requested, not back yet."),
    ("{test} [requested|booked|ordered].", "{test} not back yet.", "Awaiting {test}."),
  ),
  "settled": (
    ("Dr: Your {settled} came back normal.", "Dr: {settled} is fine, by the way."),
    ("{settled} back, normal.", "{settled} normal."),
  ),
  "relative": (
    ("Pt: My {relative} is allergic to {relative_allergen}.", "Pt: My {relative} has {relative_has}."),
    ("{relative} is allergic to {relative_allergen}.", "{relative} has {relative_has}."),
  ),
  "talk": (
    ("Pt: [Parking was awful|What weather|The bus was late]. Dr: [Sorry for the wait|I know|Do sit down].", "Dr: [How was the holiday|How is the garden|Still singing]? Pt: [Lovely, thanks|Very well]."),
    ("[Came by bus|Chatty today|Asked about parking|Looks forward to a holiday].", "[Brought a neighbour along|Thanks for the letter|In good spirits]."),
  ),
}
# fmt: on

SAID_FREQUENCY = {
  "once daily": "once a day",
  "twice daily": "twice a day",
  "three times daily": "three times a day",
  "four times daily": "four times a day",
  "five times daily": "five times a day",
  "at night": "at night",
}
NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
# Slips of the unit, by the right one.
WRONG_UNITS = {"mg": ("mcg", "g", "ml"), "mcg": ("mg", "g"), "units": ("ml", "mg")}
