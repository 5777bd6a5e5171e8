"""Words around what is live in a simulated message: settled matters, quotations, courtesies and slips of the pen."""

# fmt: off

# Matters that are over, absent or someone else's, and ask for nothing: (words that must not be in what is live, text).
CLOSED = (
  ("chest", "no chest pain"),
  ("chest", "chest [pain|pressure] {long_ago}, [none since, heart fine|all tests fine]"),
  ("chest", "my {relative} was in the ER with chest pain, [home again|is fine now]"),
  ("breath oximeter puff asthma", "breathing is [fine|normal]"),
  ("breath oximeter puff", "was [badly|very] short of breath {long_ago}, [cleared up|gone since]"),
  ("breath oximeter lips", "my {relative} could hardly breathe last night, [is in hospital now|seen in the ER]"),
  ("arm face stroke speech numb", "my {relative} had a stroke [this morning|on Sunday], in good hands"),
  ("arm face stroke speech numb", "no weakness, speech [fine|normal]"),
  ("arm face speech numb head", "face drooped {long_ago}, Bell's palsy, [cleared up|gone since]"),
  ("head vision blur", "no headache"),
  ("head vision blur", "worst headache of my life {long_ago}, scan was fine, [gone since|none since]"),
  ("head anticoag", "my {relative} had a head injury [last night|this morning], [seen already|home from the ER]"),
  ("sugar meter insulin sensor unit",
   "my {relative}'s sugar was {36-48} last night, fixed with juice, [doctor knows|seen already]"),
  ("BP", "BP {118-132}/{70-82} today"),
  ("BP", "my {relative}'s BP was {196-214}/{112-120}, [the doctor saw|already seen]"),
  ("BP pregnan baby head", "BP was {196-214}/{112-120} {long_ago}, normal now"),
  ("temp fever", "temp {normal}"),
  ("temp fever", "had a temp of {fever} {long_ago}, gone in a day"),
  ("temp fever", "my {relative} has a temp of {fever}, [their own doctor knows|seen already]"),
  ("bleed blood stool black bruis", "no bleeding"),
  ("bleed blood stool black ibuprofen naproxen aspirin", "stools were black {long_ago}, [ulcer healed|all clear]"),
  ("calf leg ankle breath puff chest", "swollen calf {long_ago}, treated, [gone since|fine now]"),
  ("vomit sick thrown threw loose diarrh", "not vomiting"),
  ("pain ache 10", "pain was 9/10 {long_ago}, [gone since|none now]"),
  ("dizz faint", "fainted {long_ago}, [all tests fine|not again since]"),
  ("swell lips tongue rash hives sting", "lips swelled after nuts {long_ago}, [avoided them since|not again since]"),
  ("end wish mood think life", "my {relative} spoke of suicide last week, [has a team now|is in care]"),
  ("potassium", "potassium was {6.6-7.2} {long_ago}, [normal since|fine now]"),
  ("potassium", "potassium {3.8-4.8} last week, all fine"),
  ("sodium", "sodium was {112-117} {long_ago}, [normal since|fine now]"),
  ("Hb blood", "Hb {12.4-14.2} last week, all fine"),
  ("eye sight vision head", "lost sight in one eye {long_ago}, [surgery fixed it|fine since]"),
  ("last renew more out refill shop store left box", "[my|the] {refill_drug} refill came [yesterday|today], thanks"),
  ("last renew more out refill shop store left box", "[refill|renewal] of {refill_drug} is [done|sorted]"),
  ("took dose forgot mistake missed", "took a double dose of {minor} {long_ago}, no harm"),
  ("took dose overdose", "my {relative} took {24-40} paracetamol [last night|on Sunday], is in hospital"),
  ("ibuprofen mix naproxen aspirin", "ibuprofen question is answered, thanks"),
  ("visit move appointment ride scan clinic tomorrow afternoon",
   "[my|the] [heart scan|eye clinic] visit tomorrow [is confirmed|stands]"),
  ("visit move appointment ride scan clinic", "[my|the] [chest clinic|scan] visit is moved already, thanks"),
  ("bill charged insur", "the bill is [paid|sorted]"),
  ("form paper consent letter", "[my|the] [work|insurance] form is [signed|sent] already"),
  ("copy records portal log password", "got the [records|scan copy], thanks"),
  ("wound stitch dressing pus cut nail burn", "[old|the] wound [healed|closed] {long_ago}"),
  ("wound stitch dressing pus cut nail burn", "wound had pus {long_ago}, healed since"),
  ("prep colonoscopy bowel", "colonoscopy {long_ago} was fine"),
  ("pregnan baby weeks", "my {pregnant_relative} is {30-36} weeks pregnant"),
  ("chemo", "my {relative} is on chemo"),
  ("anticoag warfarin apixaban rivaroxaban thinner", "my {relative} takes warfarin"),
)

# Around a whole concern that is over or another's: the same words as a live one, and no call to act.
QUOTED_OWN = (
  '[earlier|old] message, [settled|answered] [in {2014-2021}|last year]: "{quote}"',
  '"{quote}" was {long_ago}, [all over now|long settled]',
  '[in {2014-2021}|last year] I wrote "{quote}", [that is over|since settled]',
  '[skip|ignore] the "{quote}" from [{2014-2021}|last year], [settled|old news]',
)
QUOTED_OTHER = (
  'my {relative} [wrote|said] "{quote}", {ended}',
  '"{quote}" is what my {relative} wrote, {ended}',
  '[skip|ignore] "{quote}", that was my {relative} on my login, {ended}',
)
# In front of what is live.
NOW = ("now", "today", "new", "my question", "for me", "this time")

# What senders add whatever the matter is; it says nothing on the label.
OPENINGS = (
  "hi", "hello", "hi team", "good morning", "dear all", "URGENT", "quick one", "sorry to bother you",
  "not sure who to ask",
)
ENDINGS = (
  "please advise", "thanks", "thank you", "what should I do", "please call me", "do I need to book", "who should I ask",
  "no rush", "this is URGENT", "need an answer today", "probably nothing", "it can wait I think", "very worried",
  "please reply soon",
)

ABBREVIATIONS = (
  ("temp", "temperature"), ("weeks", "wks"), ("minutes", "min"), ("months", "mths"), ("years", "yrs"), ("with", "w/"),
  ("please", "pls"), ("thanks", "thx"), ("yesterday", "yday"), ("tomorrow", "tmrw"), ("potassium", "K"),
  ("insurance", "ins."), ("and", "&"),
)
MISSPELLINGS = (
  ("breathless", "brethless"), ("breathing", "breathin"), ("chest", "chset"), ("diarrhoea", "diarhea"),
  ("vomiting", "vommiting"), ("headache", "headake"), ("swollen", "swolen"), ("yesterday", "yesturday"),
  ("tomorrow", "tommorow"), ("morning", "mornign"), ("normal", "normall"), ("since", "sinse"), ("bleeding", "bleding"),
  ("pregnant", "pregnent"), ("ibuprofen", "ibuprofin"), ("warfarin", "warfrin"), ("apixaban", "apixiban"),
  ("insulin", "insuline"), ("potassium", "potasium"), ("insurance", "insurence"), ("clinic", "clinc"),
  ("wound", "wuond"), ("until", "untill"), ("which", "wich"), ("weight", "wieght"), ("surgery", "surgry"),
  ("dizzy", "dizy"), ("pressure", "presure"), ("blurry", "blury"),
)
