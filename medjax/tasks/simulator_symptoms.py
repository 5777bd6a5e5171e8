"""What simulated patients write about their symptoms, readings and results, with the triage that follows from it.

The same words stand under different labels: what decides is how strong, since when, at rest or not, which number,
and who is writing.
"""

# ruff: noqa: E501
# fmt: off

from medjax.tasks.simulator_concerns import concern

_MOST = "low_risk older asthma epilepsy tablet_diabetes"

SYMPTOMS = (
  # Chest
  concern(
    "chest", "physician emergency", "adult", "chest pain now, with spread or sweating",
    "[pressure in my chest|chest pain|tightness across my chest] for the [last|past] {20-50} min, [going into my left arm|spreading to my jaw|and I am sweating|and I feel sick]",
    "my chest [feels heavy|is tight] since I [woke|got up] today, {7-9}/10, [sitting still does not help|even lying down]",
  ),
  concern(
    "chest", "physician urgent", _MOST, "new exertional chest pain",
    "[since last week|for five days] I get [chest tightness|chest pain|pressure in my chest] [on stairs|walking uphill], gone after {2-5} min rest, none [now|today]",
  ),
  concern(
    "chest", "physician routine", "low_risk", "",
    "my chest [hurts|is sore] only when I [press on one rib|twist|lift my arm], since [lifting boxes|moving house] [two|three] weeks ago, {2-3}/10 and easing",
    "for {2-3} years I have had [a chest twinge|one-second chest stabs] a few times a month, [unchanged|same as ever], normal heart scan. Still curious why",
  ),
  # Breathing
  concern(
    "breath", "physician emergency", "adult", "breathless at rest",
    "so [breathless|short of breath] I [can't finish a sentence|have to stop after three words|am sitting up to breathe], [came on this morning|worse each hour]",
  ),
  concern(
    "breath", "physician emergency", "low_risk older asthma", "oxygen saturation below 90 %",
    "oximeter [reads|says|shows] {81-87}[ now|], [usual is|normally] {96-98}",
    "oximeter [reads|says|shows] {81-87} and I am [puffing|breathless] just sitting",
  ),
  concern(
    "breath", "physician urgent", "low_risk older", "worsening breathlessness; oxygen saturation 92-93 %",
    "more [breathless|short of breath|puffed] on the stairs [since the weekend|over three days], oximeter {92-93}, ok at rest",
  ),
  concern(
    "breath", "physician urgent", "heart_failure", "rapid weight gain in heart failure",
    "[up|gained] {3-4} kg since [Monday|Sunday], ankles [more swollen|puffier], [need an extra pillow|more puffed on the stairs]",
  ),
  concern(
    "breath", "physician routine", "low_risk older", "",
    "a bit [breathless|puffed|short of breath] on hills [for a year or so|for about two years], no change, oximeter {96-98}",
  ),
  concern(
    "breath", "nurse routine", "heart_failure", "",
    "weight steady all month, ankles as always, oximeter {96-98}, [how much salt is ok|how many glasses may I drink a day]?",
  ),
  concern(
    "asthma", "physician emergency", "asthma", "asthma attack that the reliever does not help",
    "[blue inhaler|salbutamol] {10-12} puffs and [no better|still tight], [can't get words out|lips look blue]",
  ),
  concern(
    "asthma", "physician urgent", "asthma", "reliever needed every few hours",
    "[need|using] my [blue inhaler|salbutamol] every {3-4} h since yesterday, eases a while, can talk fine",
  ),
  concern(
    "asthma", "nurse routine", "asthma", "",
    "[blue inhaler|salbutamol] maybe once a month, no wheeze. [Do I shake it first|Am I using the spacer right|How long do I hold my breath]?",
  ),
  # Head and nerves
  concern(
    "headache", "physician emergency", "adult", "thunderclap headache",
    "[worst headache of my life|worst headache ever], [hit in a second|came like a clap] {20-50} min ago",
    "[was fine, then|] in a second the worst headache [I ever had|of my life], [neck stiff|being sick with it]",
  ),
  concern(
    "headache", "physician emergency", "low_risk older", "headache with fever and stiff neck",
    "headache, temp {fever}, [neck too stiff to bend|stiff neck and light hurts|stiff neck and very drowsy]",
  ),
  concern(
    "headache", "physician urgent", "!older", "new temporal headache over 60",
    "new headache at the temple [for four days|since Monday], [jaw aches when I chew|scalp sore to touch], {age} [yo|years old]",
  ),
  concern(
    "headache", "physician routine", "low_risk", "",
    "my [usual|normal] [migraine|headache], same as [every month|for years], bad but gone after {1-3} h in the dark. [Can it be prevented|Want to talk prevention]?",
  ),
  concern(
    "stroke", "physician emergency", "adult", "sudden weakness or speech trouble, still there",
    "[left|right] [arm went weak|side of my face dropped] {20-50} min ago and [I can't find words|my speech is slurred|it is not coming back]",
    "[typing this slowly,|] [left|right] arm [numb and clumsy|won't lift] since [breakfast|I woke up today], [face droops|words come out wrong]",
  ),
  concern(
    "stroke", "physician routine", "older anticoagulated", "",
    "[left|right] arm [weak|clumsy] since my stroke in {2014-2021}, [no change|same as ever], [is more physio worth it|want to discuss rehab]",
  ),
  concern(
    "headinjury", "physician emergency", "!anticoagulated", "head injury; anticoagulant",
    "[slipped|tripped] and [hit|banged|knocked] my head [this morning|an hour ago|last night], [small bump|feel fine|a bruise, no headache]",
    "[bumped|knocked|banged] my head on a [cupboard|shelf|car door] [this morning|last night], [small bump|feel fine|never blacked out]",
  ),
  concern(
    "headinjury", "physician emergency", "low_risk", "head injury; vomiting or drowsiness after it",
    "[hit|banged|knocked] my head [this morning|two hours ago], [thrown up {2-4} times since|getting drowsier|confused and can't remember it]",
  ),
  concern(
    "headinjury", "nurse routine", "low_risk past_chemo", "",
    "[bumped|knocked|banged] my head on a [cupboard|shelf|car door] [this morning|last night], small bump, [feel fine|awake and well], [no vomiting|never blacked out]",
  ),
  concern(
    "eye", "physician emergency", "adult", "sudden loss of sight",
    "[lost the sight|a curtain came over the sight] in [my left|my right|one] eye [an hour ago|this morning] and it stays dark",
  ),
  concern(
    "eye", "physician urgent", "low_risk older", "new floaters and flashes",
    "new floaters [and flashes|and sparks] in one eye since [yesterday|last night], sight still clear",
  ),
  concern(
    "eye", "pharmacist routine", "low_risk", "",
    "itchy watery eyes every [spring|hay fever season], sight clear. Which [drops|eye drops] can I buy?",
  ),
  concern(
    "eye", "physician routine", "low_risk older", "",
    "same few floaters in one eye for [years|{4-9} years], sight [clear|no different], worth a [look|check] some time?",
  ),
  # Blood pressure and sugar
  concern(
    "pressure", "physician emergency", "low_risk older anticoagulated", "blood pressure over 180 with symptoms",
    "BP {194-218}/{112-124} [just now|twice] with [a pounding headache and blurry vision|chest tightness|blurry vision and confusion]",
  ),
  concern(
    "pressure", "physician emergency", "!late_pregnancy", "blood pressure over 160/110 in pregnancy",
    "BP [is|was] {162-178}/{110-116} [just now|twice today][, slight headache|]",
  ),
  concern(
    "pressure", "nurse urgent", "!late_pregnancy", "blood pressure over 140/90 in pregnancy",
    "BP [is|was] {144-156}/{92-98} [just now|twice today], [no headache|feel ok|sight clear]",
  ),
  concern(
    "pressure", "nurse urgent", "low_risk older", "blood pressure over 180",
    "BP {183-192}/{104-110} [on three checks|three times] today, [feel fine|no symptoms|no headache, sight clear]",
  ),
  concern(
    "pressure", "nurse routine", "low_risk older anticoagulated", "",
    "BP {122-137}/{70-84} [all week|on three checks], [feel fine|no headache]. How often should I [check|measure]?",
    "BP {141-152}/{84-89} [this week|most mornings], feel fine. Is my cuff [too small|on right]?",
  ),
  concern(
    "sugar", "physician emergency", "insulin", "glucose below 54 mg/dl",
    "sugar [is|reads] {34-48}[ now| right now], [shaky and muddled|sweating, hands shaking|can't think straight]",
    "[meter|sensor] says {34-48} [right now|and falling], [after my insulin|did my insulin, no lunch]",
  ),
  concern(
    "sugar", "physician emergency", "insulin", "glucose over 400 mg/dl with vomiting or ketones",
    "sugar {420-560} [since last night|now], [throwing up|vomiting, ketones high|ketones 4+ and very sleepy]",
  ),
  concern(
    "sugar", "nurse urgent", "insulin", "glucose over 250 mg/dl for days",
    "sugar {262-290} to {305-340} [for three days|since Sunday], [no ketones|ketones negative], feel ok",
  ),
  concern(
    "sugar", "nurse urgent", "insulin", "glucose below 70 mg/dl more than once",
    "sugar {56-66} before lunch [three days running|three times this week], [fine after juice|up again after juice]",
  ),
  concern(
    "sugar", "nurse routine", "insulin tablet_diabetes", "",
    "[fasting|morning] sugar {92-126} [all week|since Sunday]. [Is that the target|What number do we want]?",
    "sugar [is|reads] {112-165} after [lunch|dinner], feel ok. [When is best to check|Is once a day enough]?",
  ),
  # Fever and infection
  concern(
    "fever", "physician emergency", "!chemo", "fever; chemotherapy",
    "temp [is|] {fever}[ just now| since this morning], [otherwise ok|bit shivery|just a cold I think]",
    "[runny nose|sore throat] since yesterday, temp {fever}, drinking ok",
  ),
  concern(
    "fever", "physician emergency", "!infant", "fever; under three months old",
    "{he} has a temp of {fever}, [feeding less|otherwise ok|runny nose]",
    "runny nose since yesterday, temp {fever}, {he} is [drinking ok|smiling]",
  ),
  concern(
    "fever", "physician emergency", "child", "floppy or non-blanching rash",
    "temp {fever} and {he} is [floppy and hard to wake|getting purple spots that stay when pressed]",
  ),
  concern(
    "fever", "physician urgent", "child", "fever for five days",
    "{he} has had a temp of {fever} [for five days|for six days], [drinking ok|runny nose, drinking]",
  ),
  concern(
    "fever", "physician urgent", "low_risk past_chemo", "urinary infection with fever and flank pain",
    "stings when I pee, [now|and now] [back|side] pain and temp {fever}",
  ),
  concern(
    "fever", "physician urgent", "low_risk older past_chemo", "productive cough with fever, worsening",
    "cough with [green|rusty] phlegm for {5-8} days, temp {fever}, [more tired each day|worse since yesterday]",
  ),
  concern(
    "fever", "nurse routine", "low_risk past_chemo", "",
    "[runny nose|sore throat|a cold] since yesterday, temp {raised}, drinking ok. [What helps|Anything I can do at home]?",
  ),
  concern(
    "fever", "nurse routine", "child", "",
    "[runny nose|a cold] since yesterday, temp {raised}, {he} is [drinking ok|playing]. [Can {he} go to nursery|What helps]?",
  ),
  concern(
    "fever", "nurse routine", "!chemo infant", "",
    "temp [is|] {normal}[ just now| this morning], all ok. [At what temp do I call|How often should I check]?",
  ),
  concern(
    "fever", "nurse routine", "infant", "",
    "{he} [spits up a little|has hiccups] after feeds, temp {normal}, [feeding well|happy]. [Normal|Any tips]?",
  ),
  # Bleeding
  concern(
    "bleeding", "physician emergency", "!anticoagulated", "bleeding that does not stop; anticoagulant",
    "nosebleed [this morning|since breakfast], {35-70} min pinching and [still running|not stopped]",
  ),
  concern(
    "bleeding", "physician emergency", "anticoagulated older", "black stools with dizziness",
    "stools [black|like tar] since [yesterday|last night] and [dizzy|nearly fainted] when I stand",
  ),
  concern(
    "bleeding", "physician urgent", "!anticoagulated", "new bruising or gum bleeding; anticoagulant",
    "bruises [without any knock|coming up all over] since [Monday|Sunday], gums [ooze|bleed] when I brush",
  ),
  concern(
    "bleeding", "nurse routine", "low_risk", "",
    "nosebleed [this morning|last night], stopped after {5-10} min pinching, none since. [Can I exercise|How do I prevent it]?",
  ),
  concern(
    "bleeding", "pharmacist routine", "low_risk", "",
    "stools [black|dark] since I started iron tablets [last week|ten days ago], feel well. Is it the iron?",
  ),
  # Legs and back
  concern(
    "leg", "physician emergency", "adult", "swollen calf with breathlessness or chest pain",
    "one calf [swollen|sore] [for two days|since yesterday], now [sharp pain breathing in|suddenly short of breath|coughing up blood]",
  ),
  concern(
    "leg", "physician urgent", "low_risk postop", "one-sided calf swelling",
    "one calf [swollen|bigger] and sore [for two days|since yesterday], [breathing fine|not short of breath]",
  ),
  concern(
    "leg", "physician routine", "low_risk older", "",
    "both ankles a bit [puffy|swollen] by evening, [same for years|for a year, no change], down by morning, [breathing fine|not short of breath]",
  ),
  concern(
    "back", "physician emergency", "adult", "back pain with bladder or saddle symptoms",
    "back pain [since two days|for two days], [can't pee since last night|lost control of my bladder], [numb between my legs|legs getting weak]",
  ),
  concern(
    "back", "physician urgent", "low_risk", "new severe pain",
    "back pain [since two days|for two days], {8-9}/10 down one leg, [can't sleep|painkillers don't touch it], bladder and legs ok",
  ),
  concern(
    "back", "physician routine", "low_risk older", "",
    "back pain {2-4}/10 for [months|over a year], no worse, [bladder and legs ok|sleep ok], [would a scan help|want to discuss a scan]?",
  ),
  # Belly, pregnancy
  concern(
    "belly", "physician emergency", "low_risk older", "severe abdominal pain with guarding or vomiting blood",
    "belly [rock hard|rigid], pain {9-10}/10 since this morning, [can't stand straight|vomiting]",
    "[threw up blood twice|vomit looks like coffee grounds] [since this morning|today], belly pain {6-8}/10",
  ),
  concern(
    "belly", "physician urgent", "low_risk older", "diarrhoea with dehydration",
    "[diarrhoea|loose stools] for {4-6} days, [dizzy when I stand|hardly peeing], [can't drink enough|mouth dry]",
  ),
  concern(
    "belly", "physician routine", "low_risk older", "",
    "belly [bloating|cramps] {2-3}/10 after [milk|bread] for [months|about a year], weight steady, [should I be tested|could it be intolerance]?",
  ),
  concern(
    "belly", "nurse routine", "low_risk", "",
    "[diarrhoea|loose stools] since yesterday, {3-5} times, drinking ok, [not dizzy|peeing fine]. What can I eat?",
  ),
  concern(
    "pregnancy", "physician emergency", "early_pregnancy", "heavy bleeding or one-sided pain in pregnancy",
    "bleeding, [a pad every half hour|soaking a pad an hour] [and cramps|since this morning]",
    "[sharp|bad] pain low on one side since [last night|this morning], {7-9}/10, [spotting|shoulder hurts too]",
  ),
  concern(
    "pregnancy", "physician emergency", "late_pregnancy", "no fetal movements",
    "baby [has not moved since yesterday|gave no kicks since last night], [tried juice and lying down|nothing all morning]",
  ),
  concern(
    "pregnancy", "physician urgent", "early_pregnancy", "vomiting with no fluids kept down",
    "sick {8-12} times [since yesterday|a day], [can't keep even water down|no fluids stay down]",
  ),
  concern(
    "pregnancy", "nurse routine", "early_pregnancy", "",
    "[sick|queasy] most mornings, fluids stay down. [Any tips|What helps]?",
  ),
  concern(
    "pregnancy", "nurse routine", "late_pregnancy", "",
    "baby [kicks as usual|moved plenty all morning]. [How do I count kicks|How should I lie at night|What do I pack]?",
  ),
  # Allergy and mood
  concern(
    "allergy", "physician emergency", "adult", "swelling of lips or tongue with trouble breathing",
    "[lips|tongue] swelling {10-30} min after [amoxicillin|a new antibiotic|peanuts|a wasp sting], [throat tight|hard to breathe|voice hoarse]",
  ),
  concern(
    "allergy", "pharmacist urgent", "low_risk older", "rash on a drug, next dose due",
    "[itchy rash|hives] on [tummy|arms] since day {2-5} of [amoxicillin|the new antibiotic], [breathing fine|no swelling], next dose [tonight|in two hours]",
  ),
  concern(
    "allergy", "nurse routine", "low_risk", "",
    "[wasp|bee] sting on my [hand|ankle] yesterday, itchy, coin sized, [breathing fine|lips fine]. [Ice or heat|What helps]?",
  ),
  concern(
    "mood", "physician emergency", "adult", "suicidal plan",
    "[I plan to end my life tonight|I have written a note and know how I will end it|pills are laid out, I don't want to wake tomorrow]",
  ),
  concern(
    "mood", "physician urgent", "low_risk", "thoughts of death without a plan",
    "[often wish I would not wake up|don't see the point of living] [this week|lately], [no plan|would not act on it]",
  ),
  concern(
    "mood", "physician routine", "low_risk", "",
    "[low mood|feeling flat] and poor sleep for [months|half a year], [no thoughts of dying|never wish I would not wake up], [want to try therapy|is there something to try]?",
  ),
  # Results: a number decides
  concern(
    "result", "physician emergency", "low_risk older heart_failure transplant", "potassium over 6.5 mmol/l",
    "portal [shows|says] potassium {6.6-7.3}[ from today|], [feel fine|bit tired][. What does it mean?|]",
    "potassium was {lab_potassium} [last month|in spring], today {6.6-7.3}[, feel fine|]",
  ),
  concern(
    "result", "physician urgent", "low_risk older heart_failure transplant", "potassium 5.7-6.1 mmol/l",
    "portal [shows|says] potassium {5.7-6.1}[ from today|], [feel fine|bit tired][. What does it mean?|]",
    "potassium was {lab_potassium} [last month|in spring], today {5.7-6.1}[, feel fine|]",
  ),
  concern(
    "result", "physician routine", "low_risk older heart_failure transplant", "",
    "portal [shows|says] potassium {lab_potassium}[ from today|], [feel fine|bit tired][. What does it mean?|]",
    "potassium was {5.7-6.9} [last month|in spring], today {lab_potassium}[, feel fine|]. [Do we recheck|What now]?",
  ),
  concern(
    "result", "physician emergency", "low_risk older epilepsy", "sodium below 120 mmol/l",
    "[my|new] sodium result is {110-117}[, usually {lab_sodium}|], [bit muddled|tired]",
  ),
  concern(
    "result", "physician urgent", "low_risk older epilepsy", "sodium 125-128 mmol/l",
    "[my|new] sodium result is {125-128}[, usually {lab_sodium}|], [feel fine|tired]",
  ),
  concern(
    "result", "physician routine", "low_risk older epilepsy", "",
    "[my|new] sodium result is {lab_sodium}[, was {125-128} last year|], [feel fine|tired]. [Good|Ok]?",
  ),
  concern(
    "result", "physician emergency", "low_risk older chemo", "haemoglobin below 6 g/dl",
    "blood count back: Hb {4.4-5.7}[, was {lab_haemoglobin} before|], [pale|worn out]",
  ),
  concern(
    "result", "physician urgent", "low_risk older chemo", "haemoglobin 7.1-7.9 g/dl",
    "blood count back: Hb {7.1-7.9}[, was {lab_haemoglobin} before|], [pale|worn out]",
  ),
  concern(
    "result", "physician routine", "low_risk older chemo", "",
    "blood count back: Hb {lab_haemoglobin}[, was {7.1-7.9} last year|]. [Is that good|All ok]?",
  ),
  concern(
    "result", "physician emergency", "warfarin", "high INR; bleeding",
    "INR [today|is] {5.2-9.8}[, last one was {2.1-2.9}|], [nose bleeding on and off since breakfast|blood in my pee today]",
  ),
  concern(
    "result", "physician urgent", "warfarin", "INR 5.2-7.8",
    "INR [today|is] {5.2-7.8}[, last one was {2.1-2.9}|], [no bleeding|feel fine]",
  ),
  concern(
    "result", "physician routine", "warfarin", "",
    "INR [today|is] {2.1-2.9}[, last one was {5.2-7.8}|], [no bleeding|feel fine]. Ok?",
  ),
  # Slow, lasting complaints
  concern(
    "lasting", "physician routine", "low_risk older anticoagulated insulin heart_failure", "",
    "[knee|hip|shoulder] ache {2-4}/10 for [months|a year], [no worse|can walk fine]. [Would a scan help|Is surgery worth it]?",
    "[hair thinning|hands tremble a little] [for a year|slowly since last year], [no change lately|not bothered much]. [What could cause it|Should I be tested]?",
    "[snore and feel tired|tired in the afternoons] for [a year|months]. [Could it be sleep apnoea|Should I be tested]?",
    "want [to talk about|a second opinion on] [my knee surgery|the gallstones found last year], [no pain now|no trouble since]",
  ),
)
