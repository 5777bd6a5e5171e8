"""What simulated patients ask for: help with medicines, wounds and devices, and paperwork."""

# ruff: noqa: E501
# fmt: off

from medjax.tasks.simulator_concerns import concern

REQUESTS = (
  # Refills: which drug, and how much is left
  concern(
    "refill", "pharmacist urgent", "critical", "critical drug run out",
    "[took my last|last] {critical} [this morning|last night], none left[, no refills on file|]",
    "out of {critical} since [yesterday|last night][, shop shut|], [please renew|can I get more]?",
  ),
  concern(
    "refill", "pharmacist routine", "adult", "",
    "{drug} [lasts {10-20} more days|runs out in {2-3} weeks], [please renew|can I get more]?",
    "{drug} [refill|renewal] please, [{10-20} days left|enough for {2-3} weeks]",
  ),
  concern(
    "refill", "pharmacist routine", "adult", "",
    "[took my last|last] {minor} [this morning|last night], none left. [Please renew|Can I get more]?",
    "out of {minor} since [yesterday|last night][, shop shut|], [please renew|can I get more]?",
  ),
  concern(
    "supply", "pharmacist urgent", "critical", "critical drug not to be had",
    "[shop|drugstore] can't get {critical} until [Friday|next week], I have [one dose|none] left",
  ),
  concern(
    "supply", "pharmacist routine", "critical", "",
    "[shop|drugstore] can't get {critical} until [Friday|next week], I have {3-5} weeks left. Is another brand ok?",
  ),
  # Dosing: how much of what
  concern(
    "dose", "physician emergency", "adult", "paracetamol overdose",
    "took {24-42} {paracetamol} 500s [since last night|last night] for [toothache|my bad hip], [feel fine|ok so far|bit sick]",
  ),
  concern(
    "dose", "pharmacist routine", "low_risk older", "",
    "took 2 {paracetamol} 500s [last night|this morning] for [toothache|my bad hip], [feel fine|bit better]. When is the next dose ok?",
  ),
  concern(
    "dose", "physician emergency", "insulin", "tenfold insulin dose",
    "[injected|took] {50-60} units of fast insulin instead of {5-6} [ten minutes ago|just now], [feel fine|ok so far]",
  ),
  concern(
    "dose", "pharmacist urgent", "metoprolol digoxin warfarin apixaban rivaroxaban levetiracetam lamotrigine tacrolimus", "double dose of a high-risk drug",
    "took my {double} twice [today by mistake|this morning], [feel fine|ok so far]. [Skip the next one|What about the next dose]?",
  ),
  concern(
    "dose", "pharmacist urgent", "methotrexate", "extra dose of weekly methotrexate",
    "took my weekly methotrexate [yesterday and today|two days running] by mistake, [feel fine|ok so far]. [Skip the next one|What about the next dose]?",
  ),
  concern(
    "dose", "pharmacist routine", "low_risk older asthma", "",
    "took my {minor} twice [today by mistake|this morning], [feel fine|ok so far]. [Skip the next one|What about the next dose]?",
  ),
  concern(
    "missed", "pharmacist urgent", "critical", "critical drug missed for days",
    "forgot my {critical} [two days running|for three days], [feel fine|all ok so far]. [Same dose now|Double up or not]?",
  ),
  concern(
    "missed", "pharmacist routine", "adult", "",
    "forgot my {minor} [two days running|for three days], [feel fine|all ok so far]. [Same dose now|Double up or not]?",
  ),
  concern(
    "lithium", "physician emergency", "!lithium", "signs of lithium toxicity",
    "hands shake badly since yesterday, [vomiting|loose stools] and [staggering|slurring]",
  ),
  concern(
    "lithium", "pharmacist routine", "!lithium", "",
    "hands shake a little [as for years|, same for years]. [Is coffee ok with it|Can I buy ibuprofen or not]?",
  ),
  # Mixing
  concern(
    "mixing", "pharmacist urgent", "!anticoagulated", "anti-inflammatory taken with an anticoagulant",
    "took [ibuprofen|naproxen|aspirin] [twice|three times] [since yesterday|today], [no bleeding|feel fine]. [Is that ok with my meds|Stop it]?",
  ),
  concern(
    "mixing", "pharmacist urgent", "!methotrexate", "trimethoprim taken with methotrexate",
    "[other clinic|walk-in clinic] gave me trimethoprim, took [one|two] [today|since yesterday], [feel fine|no problem so far]. [Is that ok with my meds|Stop it]?",
  ),
  concern(
    "mixing", "pharmacist routine", "low_risk", "",
    "took [ibuprofen|naproxen] [twice|three times] [since yesterday|today], [tummy fine|feel fine]. [Is that ok with paracetamol|Can I add paracetamol]?",
  ),
  concern(
    "mixing", "pharmacist routine", "anticoagulated transplant methotrexate epilepsy heart_failure", "",
    "can I [take|buy] [ibuprofen|St John's wort|a cold remedy] with {drug}? Have not [taken|bought] any yet",
  ),
  concern(
    "mixing", "pharmacist routine", "pregnant", "",
    "can I [take|buy] [hay fever tablets|antacids|paracetamol] while pregnant? Have not taken any yet",
  ),
  concern(
    "sideeffect", "pharmacist routine", "ramipril lisinopril", "",
    "dry cough since I started {ace} [last month|in spring], [not breathless|breathing fine]. Is it the tablet?",
  ),
  concern(
    "sideeffect", "pharmacist routine", "metformin", "",
    "metformin gives me [loose stools|belly cramps], mild, drinking ok. [Better with food|Is there a slow release one]?",
  ),
  concern(
    "sideeffect", "pharmacist routine", "chemo", "",
    "{drug} makes me constipated, mild. [Which laxative goes with chemo|What can I buy]?",
  ),
  concern(
    "storage", "pharmacist urgent", "insulin", "only insulin spoilt",
    "left my only insulin [in a hot car all day|in the freezer overnight], next dose [tonight|in two hours]. Still good?",
  ),
  concern(
    "storage", "pharmacist routine", "insulin", "",
    "left my insulin pen [out of the fridge|on the table] {2-5} h, [two spare pens at home|have spares]. Still good?",
  ),
  concern(
    "mixup", "pharmacist urgent", "low_risk older heart_failure past_chemo", "wrong drug or strength dispensed, next dose due",
    "box of {drug} [says ten times my usual strength|has another patient's name on it], next dose [tonight|in two hours]. [Take it or not|Is it just another brand]?",
  ),
  concern(
    "mixup", "pharmacist routine", "low_risk older heart_failure past_chemo", "",
    "box of {drug} [looks different|has a new colour], same name and strength, next dose [tonight|in two hours]. [Take it or not|Is it just another brand]?",
  ),
  concern(
    "childdose", "pharmacist routine", "child", "",
    "{he} [spat out half|missed one spoon] of the amoxicillin this morning, [seems well|playing]. [Give it again|Same dose tonight]?",
  ),
  concern(
    "childdose", "pharmacist urgent", "child", "child given a double dose",
    "gave {him} the paracetamol syrup and so did my [mother|partner], two full doses [within an hour|at noon], {he} [seems well|is playing]. Next dose when?",
  ),
  # Wounds and devices
  concern(
    "wound", "physician emergency", "postop", "bleeding that pressure does not stop",
    "[third|fourth] dressing soaked with blood in [20|30] min, [won't stop with pressure|still pouring]",
  ),
  concern(
    "wound", "nurse urgent", "postop", "wound infection",
    "wound [red and hot, spreading since yesterday|oozing pus since yesterday], [temp {raised}|sore {5-7}/10]",
    "stitches [came apart|gave way] at one end [this morning|last night], gap [a finger wide|2 cm], [little bleeding|no bleeding now]",
  ),
  concern(
    "wound", "nurse routine", "postop", "",
    "wound [dry|closed], no redness or pus, temp {normal}. [When can I shower|When do stitches come out|Leave the dressing off]?",
  ),
  concern(
    "wound", "nurse routine", "low_risk", "",
    "small [kitchen|paper] cut on my finger [yesterday|last night], [dry|closed], no redness or pus. [Leave it open|Plaster or air]?",
  ),
  concern(
    "wound", "nurse urgent", "low_risk", "gaping cut",
    "cut my finger on a [knife|tin] [an hour ago|this morning], edges gape, [no bleeding now|bleeding stopped with pressure]. [Stitches or plaster|Plaster or air]?",
  ),
  concern(
    "nail", "nurse urgent", "low_risk older", "dirty wound without tetanus cover",
    "stepped on a rusty nail [this morning|last night], clean now, last tetanus shot {12-20} years ago. [Leave it open|Plaster or air]?",
  ),
  concern(
    "nail", "nurse routine", "low_risk older", "",
    "stepped on a [rusty nail|pin] [this morning|last night], clean now, last tetanus shot [in spring|last year]. [Leave it open|Plaster or air]?",
  ),
  concern(
    "burn", "nurse urgent", "low_risk older tablet_diabetes", "palm-sized blistering burn",
    "burn from [hot oil|the oven] [an hour ago|this morning], palm sized, [blisters|blistering], pain {4-6}/10. [Cream or air|What helps]?",
  ),
  concern(
    "burn", "nurse routine", "low_risk older", "",
    "burn from [hot oil|the oven] [an hour ago|this morning], coin sized, no blisters, pain {1-3}/10. [Cream or air|What helps]?",
  ),
  concern(
    "device", "nurse urgent", "catheter", "blocked catheter",
    "nothing in the bag [since last night|for {8-12} h], belly [tight|sore]",
  ),
  concern(
    "device", "nurse routine", "catheter", "",
    "bag [strap rubs|tap drips a little], draining [clear|well] {since_long}. [Other strap size|How often do I change it]?",
  ),
  concern(
    "device", "nurse urgent", "feeding_tube", "feeding tube out",
    "tube [fell out|slipped out] [an hour ago|this morning], [no feed since|can't give the feed]",
  ),
  concern(
    "device", "nurse routine", "feeding_tube", "",
    "tube flushes [well|easily], skin [dry|a bit pink] round it. [How do I clean it|Which cream]?",
  ),
  concern(
    "device", "nurse urgent", "stoma", "little stoma output",
    "hardly anything in the bag [since last night|for {8-12} h], belly soft, [no pain|not sick]",
  ),
  concern(
    "device", "nurse routine", "stoma", "",
    "bag [peels at one edge|lifts at one side] since the new brand, output normal. [Other paste|How do I seal it]?",
  ),
  concern(
    "prep", "nurse urgent", "low_risk older tablet_diabetes", "preparation failed, procedure tomorrow",
    "[colonoscopy|bowel camera] [tomorrow|tomorrow at {7-9}], [threw up the prep|ate breakfast by mistake today|can't get the prep down]",
  ),
  concern(
    "prep", "nurse routine", "low_risk older tablet_diabetes", "",
    "[colonoscopy|bowel camera] [in three weeks|next month]. [When do I stop seeds and nuts|What may I eat before the prep|How does the prep work]?",
  ),
  concern(
    "care", "nurse routine", "low_risk older tablet_diabetes", "",
    "flu jab [yesterday|this morning], arm [sore|a bit red] {1-3}/10, no fever. [How long is that normal|Ice ok]?",
    "rolled my ankle [yesterday|this morning], walking on it, {2-3}/10, little swelling. [Ice or heat|How do I strap it]?",
    "[how do I|can someone show me how to] [use my new BP cuff|do the ankle exercises|measure my sugar right]? Tried the leaflet",
  ),
  # Paperwork
  concern(
    "booking", "clerk urgent", "adult", "care today or tomorrow would be missed",
    "[heart scan|eye clinic|MRI scan|specialist visit] is [tomorrow at {7-9}|this afternoon] and [my ride cancelled|I have no address|I was sent two times for it]",
    "[ride|transport] for my [heart scan|specialist visit|MRI scan] [tomorrow at {7-9}|this afternoon] was [never booked|cancelled]",
  ),
  concern(
    "booking", "clerk routine", "adult", "",
    "please move my [chest clinic|skin clinic|blood test|heart scan|eye clinic] visit [on the {24-28}th|next month] to [a later week|an afternoon]",
    "[heart scan|eye clinic|MRI scan|specialist visit] is [next month|in three weeks] and [my ride cancelled|I have no address|I was sent two times for it]",
    "[what time|which building] is my [blood test|chest clinic|wound clinic] visit [on the {24-28}th|next month]?",
  ),
  concern(
    "billing", "clerk routine", "adult", "",
    "[charged twice|wrong bill, {80-240} dollars] for [the chest x-ray|the ER visit in spring|the pharmacy|the heart scan|my blood test]",
    "bill for [the chest x-ray|my head scan|the blood test] [says final notice|is due tomorrow], insurance should [pay|cover it]",
  ),
  concern(
    "forms", "clerk urgent", "adult", "care today or tomorrow would be missed",
    "[heart scan|MRI scan|specialist visit] [tomorrow at {7-9}|this afternoon] and [the insurer has no authorization|the hospital has no referral letter|the consent papers never came]",
  ),
  concern(
    "forms", "clerk routine", "adult", "",
    "[heart scan|MRI scan|specialist visit] [next month|in three weeks] and [the insurer has no authorization|the hospital has no referral letter|the consent papers never came]",
    "[work|travel insurance|disability|gym] form [to drop off|to fill in] about my [back pain|migraine|old head injury|knee], needed by [next month|the {24-28}th]",
  ),
  concern(
    "records", "clerk routine", "adult", "",
    "[need|please send] a copy of my [chest scan|blood results|clinic letter|medication list|discharge papers] [for my new clinic|for my files]",
    "[new|changed] [insurance card|address|phone number], [where do I send it|please update]",
    "[can't log in to see|portal locked me out of] my [potassium result|blood results|scan letter], need a [new password|reset]",
  ),
  concern(
    "childforms", "clerk routine", "child infant", "",
    "[nursery|insurer] wants {his} vaccination [record|form], [where do I send it|can you email it]",
    "move {his} [check-up|jab visit] [next month|on the {24-28}th] to [a later week|an afternoon] please",
  ),
)
