"""What simulated encounters are about: complaints with the findings, drugs and tests that go with them."""

# ruff: noqa: E501

import dataclasses


@dataclasses.dataclass(frozen=True)
class Named:
  """Something named in a text, and the regular expression that finds it there."""

  name: str
  regex: str


@dataclasses.dataclass(frozen=True)
class Drug:
  """A drug with the doses it is given in; the first dose is the lower."""

  name: str
  doses: tuple[str, ...]
  unit: str
  frequency: str


@dataclasses.dataclass(frozen=True)
class Case:
  """A complaint.

  Attributes:
    site: the paired part of the body it is in; empty where it has no side.
    complaint: as a summary has it; with a side, what comes after `left knee`.
    words: regular expression of what may stand for the complaint.
    told: as a patient says it (template; `{side}` where it has one).
    findings: what is abnormal: text and expression; or, with a value, the text with `{value}` and an expression for
      what the value is of, then `@` and its range.
    drugs: what is started or raised.
    tests: what may be pending, or back and normal.
    denied: what is asked for and absent.
    past: what was there once.
    ages: youngest and oldest age in years.
    sex: `F` or `M` where only they fit.
  """

  site: str
  complaint: str
  words: str
  told: str
  findings: tuple[Named, ...]
  drugs: tuple[Drug, ...]
  tests: tuple[Named, ...]
  denied: tuple[Named, ...]
  past: tuple[Named, ...]
  ages: tuple[int, int] = (18, 90)
  sex: str = ""


def _named(text: str) -> tuple[Named, ...]:
  """Reads `name = expression; ...`; a name is its own expression where none is given."""
  pairs = (item.split(" = ") for item in text.split("; "))
  return tuple(Named(pair[0].strip(), pair[-1].strip()) for pair in pairs)


def _drugs(text: str) -> tuple[Drug, ...]:
  """Reads `name dose/dose unit frequency; ...`, the name one word."""
  out = []
  for item in text.split("; "):
    name, doses, unit, frequency = item.split(" ", 3)
    out.append(Drug(name, tuple(doses.split("/")), unit, frequency))
  return tuple(out)


def _case(site, complaint, words, told, *, findings, drugs, tests, denied, past, ages=(18, 90), sex=""):
  return Case(
    site, complaint, words, told, _named(findings), _drugs(drugs), _named(tests), _named(denied), _named(past), ages, sex
  )  # fmt: skip


_PAIN = r"pain\w*|hurt\w*|ach(?:e|es|ing)|sore\w*"
_TEMP = r"temperature {value} = temp\w*|fever\w*|febrile @38.2-39.4"
_CRP = r"CRP {value} = CRP|C-reactive @64-180"

# fmt: off
CASES = (
  # With a side
  _case(
    "knee", "pain", _PAIN, "my {side} knee [hurts|has been hurting|is painful]",
    findings=r"knee warm and swollen = warm (?:and|,) swollen|swollen (?:and|,) warm; knee effusion = effusion; knee bends to {value} degrees = bend|flex|degree @40-80",
    drugs="naproxen 250/500 mg twice daily; celecoxib 100/200 mg once daily; paracetamol 500/1000 mg three times daily",
    tests="X-ray = x-?ray|radiograph\\w*; uric acid = uric acid|urate; joint fluid culture = (?:joint |synovial )?fluid culture",
    denied="fever = fever|febrile; fall = \\bfall\\b|\\bfell\\b|fallen; locking = lock(?:s|ed|ing)", past="gout; Lyme disease = lyme", ages=(30, 88),
  ),
  _case(
    "hip", "pain", _PAIN, "my {side} hip [hurts|aches|has been aching]",
    findings="hip rotation painful = rotation\\W+(?:\\w+\\W+)?painful|painful\\W+(?:\\w+\\W+)?rotation; leg short and turned out = short\\w*|turned out|externally rotated; limping gait = limp\\w*",
    drugs="ibuprofen 200/400 mg three times daily; codeine 15/30 mg at night; etoricoxib 30/60 mg once daily",
    tests="X-ray = x-?ray|radiograph\\w*; bone density scan = bone density|dexa; vitamin D = vitamin D",
    denied="fall = \\bfall\\b|\\bfell\\b|fallen; numbness = numb\\w*; night sweats = sweat\\w*", past="sciatica; bursitis", ages=(45, 90),
  ),
  _case(
    "shoulder", "pain", _PAIN, "my {side} shoulder [hurts|aches|is sore]",
    findings="painful arc; lifts arm to {value} degrees = lift|arm|abduct|rais @45-85; shoulder tender in front = tender",
    drugs="naproxen 250/500 mg twice daily; diclofenac 25/50 mg twice daily; paracetamol 500/1000 mg three times daily",
    tests="ultrasound = ultrasound|sonograph\\w*; X-ray = x-?ray|radiograph\\w*; MRI = \\bMRI\\b",
    denied="neck pain = neck pain; numb fingers = numb\\w*|tingl\\w*; breathlessness = breathless\\w*|dyspn\\w*", past="a frozen shoulder = frozen; a dislocation = dislocat\\w*", ages=(28, 84),
  ),
  _case(
    "ear", "pain", _PAIN + "|earache", "my {side} ear [hurts|aches|is sore]",
    findings="ear drum red and bulging = red and bulging|bulging; ear canal swollen = canal (?:is )?swollen|swollen (?:ear )?canal; ear discharge = discharge; " + _TEMP,
    drugs="amoxicillin 250/500 mg three times daily; azithromycin 250/500 mg once daily; ciprofloxacin 250/500 mg twice daily",
    tests="ear swab = swab; hearing test = hearing test|audio\\w*; full blood count = blood count|\\bFBC\\b|\\bCBC\\b",
    denied="dizziness = dizz\\w*|vertigo; hearing loss = hearing loss|deaf\\w*; headache = headaches?", past="mastoiditis; a perforated drum = perforat\\w*", ages=(18, 70),
  ),
  _case(
    "eye", "redness", r"red(?:ness)?\b", "my {side} eye has been red",
    findings="corneal ulcer = ulcer; eye pressure {value} = pressure|IOP @28-46; fixed pupil = fixed",
    drugs="acetazolamide 250/500 mg twice daily; aciclovir 400/800 mg five times daily; doxycycline 50/100 mg once daily",
    tests="eye swab = swab; HLA B27 test = HLA; eye clinic review = eye clinic|ophthalm\\w*",
    denied="halos = halos?; discharge = discharge; light sensitivity = light sensitiv\\w*|photophob\\w*", past="iritis = iritis|uveitis; a cataract = cataracts?", ages=(22, 84),
  ),
  _case(
    "flank", "pain", _PAIN, "my {side} flank [hurts|aches|is painful]",
    findings="blood in urine = blood in (?:the )?urine|h[a]?ematuria; creatinine {value} = creat @148-260; " + _TEMP,
    drugs="ciprofloxacin 250/500 mg twice daily; diclofenac 25/50 mg three times daily; cefalexin 250/500 mg three times daily",
    tests="CT scan = \\bCT\\b; urine culture = urine culture|\\bMSU\\b; kidney ultrasound = ultrasound",
    denied="vomiting = vomit\\w*; burning urine = burning|dysuria; chills = chills|rigors?", past="kidney stones = stones?; cystitis", ages=(20, 80),
  ),
  _case(
    "calf", "swelling", r"sw[eo]ll\w*", "my {side} calf [is swollen|has been swollen|has swollen up]",
    findings="calf {value} cm wider = wider|larger|bigger|cm @3-6; D-dimer {value} = dimer @920-2400; calf warm and tender = warm (?:and|,) tender|tender (?:and|,) warm",
    drugs="rivaroxaban 10/15 mg twice daily; apixaban 5/10 mg twice daily; enoxaparin 60/80 mg twice daily",
    tests="ultrasound = ultrasound|doppler; platelet count = platelets?; kidney function = (?:kidney|renal) function|U&E",
    denied="chest pain = chest pain; breathlessness = breathless\\w*|dyspn\\w*; long flight = flight", past="varicose veins = varicos\\w*; pneumonia", ages=(25, 88),
  ),
  _case(
    "leg", "redness", r"red(?:ness)?\b|cellulitis", "my {side} leg [is red|has been red|has gone red]",
    findings="skin hot to mid shin = mid[- ]shin; white cells {value} = white|WBC|WCC|leu[ck]ocyt @13-21; " + _CRP + "; " + _TEMP,
    drugs="flucloxacillin 500/1000 mg four times daily; clindamycin 150/300 mg four times daily; doxycycline 50/100 mg twice daily",
    tests="blood culture = blood cultures?; wound swab = swab; ultrasound = ultrasound|doppler",
    denied="chills = chills|rigors?; insect bite = bites?|bitten; calf pain = calf pain", past="eczema; a leg ulcer = ulcers?", ages=(30, 90),
  ),
  _case(
    "ankle", "pain", _PAIN, "my {side} ankle [hurts|has been hurting|is painful]",
    findings="tender outer ankle bone = tender\\w*; cannot bear weight = (?:cannot|can't|unable to|not able to) (?:bear|take|put) (?:any )?weight|non-weight[- ]bearing; bruised to the toes = bruis\\w*",
    drugs="ibuprofen 200/400 mg three times daily; tramadol 50/100 mg at night; paracetamol 500/1000 mg four times daily",
    tests="X-ray = x-?ray|radiograph\\w*; MRI = \\bMRI\\b; fracture clinic review = fracture clinic",
    denied="knee pain = knee pain; numb toes = numb\\w*; cracking sound = crack\\w*", past="a tendon tear = tendon; gout", ages=(18, 70),
  ),
  _case(
    "foot", "ulcer", r"ulcers?|open sore|sore\b|wound", "I have an ulcer on my {side} foot",
    findings="ulcer {value} mm deep = deep|depth|mm @4-12; weak foot pulse = (?:weak|faint|poor) (?:foot |pedal )?pulses?; HbA1c {value} = A1c @82-118",
    drugs="flucloxacillin 500/1000 mg four times daily; glargine 12/16/24 units at night; metformin 500/1000 mg twice daily",
    tests="wound swab = swab; X-ray = x-?ray|radiograph\\w*; vascular clinic review = vascular",
    denied="fever = fever|febrile; bad smell = smell\\w*|odou?r; leg pain = leg pain", past="a heart attack = heart attack|infarct\\w*; a toe fracture = fractures?", ages=(48, 88),
  ),
  _case(
    "breast", "lump", r"lumps?|mass", "I [found|noticed] a lump in my {side} breast",
    findings="hard lump of {value} mm = hard|mm @12-34; armpit node of {value} mm = node|lymph @11-24; skin dimpling = dimpl\\w*",
    drugs="paracetamol 500/1000 mg three times daily; sertraline 25/50 mg once daily; tamoxifen 10/20 mg once daily",
    tests="mammogram = mammo\\w*; biopsy = biops\\w*; breast ultrasound = ultrasound",
    denied="nipple discharge = discharge; weight loss = weight loss|lost weight; bone pain = bone pain", past="mastitis; a breast cyst = cysts?", ages=(30, 80), sex="F",
  ),
  # Without a side
  _case(
    "", "cough", r"cough\w*", "I [have been coughing|have had this cough]",
    findings="crackles at the base = crackles|crepitations; saturation {value} % = sat\\w*|SpO2|oxygen|O2 @89-93; " + _CRP + "; " + _TEMP,
    drugs="amoxicillin 500/1000 mg three times daily; doxycycline 50/100 mg twice daily; clarithromycin 250/500 mg twice daily",
    tests="chest X-ray = x-?ray|radiograph\\w*|\\bCXR\\b; sputum culture = sputum; full blood count = blood count|\\bFBC\\b|\\bCBC\\b",
    denied="chest pain = chest pain; blood in the sputum = blood in (?:the |his |her )?sputum|h[a]?emoptysis; night sweats = sweat\\w*", past="pneumonia; whooping cough = whooping", ages=(20, 90),
  ),
  _case(
    "", "palpitations", r"palpitations?|heart (?:is |has been )?rac\w*|racing heart", "my heart [is racing|has been racing]",
    findings="irregular pulse of {value} = pulse|heart rate|irregular @112-148; ECG shows atrial fibrillation = fibrillation|\\bAF\\b; potassium {value} = potassium|\\bK\\b @2.8-3.2",
    drugs="bisoprolol 1.25/2.5/5 mg once daily; digoxin 62.5/125 mcg once daily; metoprolol 25/50 mg twice daily",
    tests="thyroid function = thyroid|\\bTSH\\b; echocardiogram = echo\\w*; 24-hour ECG = 24-hour|holter",
    denied="chest pain = chest pain; fainting = faint\\w*|syncope|blackouts?; breathlessness = breathless\\w*|dyspn\\w*", past="rheumatic fever = rheumatic; anaemia = ana?emia", ages=(30, 88),
  ),
  _case(
    "", "burning urine", r"burn\w*|dysuria|stings?|urin\w* pain\w*", "[it burns when I pass urine|passing urine burns]",
    findings="nitrite positive urine = nitrites?; tender above the pubis = tender\\w*|suprapubic; " + _TEMP,
    drugs="nitrofurantoin 50/100 mg twice daily; trimethoprim 100/200 mg twice daily; cefalexin 250/500 mg twice daily",
    tests="urine culture = urine culture|\\bMSU\\b; kidney function = (?:kidney|renal) function|U&E; bladder scan = bladder scan",
    denied="flank pain = (?:flank|loin) pain; vomiting = vomit\\w*; blood in the urine = blood in (?:the |her |his )?urine|h[a]?ematuria", past="kidney stones = stones?; pyelonephritis", ages=(18, 88), sex="F",
  ),
  _case(
    "", "headache", r"headaches?|head (?:is |has been )?(?:pain|hurt|ach)\w*", "[my head has been aching|I have had a headache]",
    findings="BP {value}/108 = BP|pressure @182-206; swollen optic discs = discs?|papill\\w*; ESR {value} = ESR|sedimentation @68-98; tender temples = tender",
    drugs="prednisolone 30/40/60 mg once daily; amlodipine 5/10 mg once daily; propranolol 40/80 mg twice daily",
    tests="CT scan = \\bCT\\b; temporal biopsy = biops\\w*; eye clinic review = eye clinic|ophthalm\\w*",
    denied="vomiting = vomit\\w*; blurred vision = blurr\\w*|vision loss; neck stiffness = (?:neck )?stiff\\w*", past="sinusitis; concussion", ages=(52, 86),
  ),
  _case(
    "", "tiredness", r"tired\w*|fatigue\w*|exhaust\w*|lethargy", "I [am|have been] [so|very] tired",
    findings="TSH {value} = TSH|thyroid @14-68; haemoglobin {value} = ha?emoglobin|\\bHb\\b @78-98; pale eyelids = pal(?:e|lor)",
    drugs="levothyroxine 25/50/75 mcg once daily; ferrous 200/300 mg once daily; cyanocobalamin 50/100 mcg once daily",
    tests="ferritin = ferritin; coeliac screen = c[o]?eliac; B12 level = B12; thyroid antibodies = antibod\\w*",
    denied="weight loss = weight loss|lost weight; low mood = low mood|depress\\w*; black stools = black stools?|melaena|melena", past="glandular fever = glandular; hepatitis", ages=(20, 84),
  ),
  _case(
    "", "swollen legs", r"sw[eo]ll\w*|o?edema", "[both my legs are swollen|my legs have been swollen]",
    findings="weight up {value} kg = weight|gain @3-8; oedema to the knees = to (?:the |both )?knees; BNP {value} = BNP @640-1900; raised neck veins = neck veins|\\bJVP\\b",
    drugs="furosemide 20/40/80 mg once daily; spironolactone 12.5/25 mg once daily; ramipril 1.25/2.5 mg once daily",
    tests="echocardiogram = echo\\w*; kidney function = (?:kidney|renal) function|U&E; urine protein = urine protein|proteinuria",
    denied="chest pain = chest pain; fainting = faint\\w*|syncope; calf pain = calf pain", past="a clot = \\bclots?\\b|\\bDVT\\b|thrombosis; hepatitis", ages=(50, 90),
  ),
  _case(
    "", "thirst", r"thirst\w*", "I [am|have been] [so|very] thirsty",
    findings="glucose {value} = glucose|sugar @284-460; ketones {value} = keton @1.6-2.9; HbA1c {value} = A1c @84-124",
    drugs="metformin 500/1000 mg twice daily; glargine 10/14/18 units at night; gliclazide 40/80 mg twice daily",
    tests="urine albumin = albumin|\\bACR\\b; C-peptide = C-?peptide; eye screening = eye screen\\w*|retina\\w*",
    denied="vomiting = vomit\\w*; belly pain = (?:belly|abdominal) pain; weight loss = weight loss|lost weight", past="gallstones = gall ?stones?; pancreatitis", ages=(20, 82),
  ),
  _case(
    "", "dizziness", r"dizz\w*|giddy|light-?headed\w*", "I [feel|have been feeling] dizzy",
    findings="standing BP {value}/54 = BP|pressure @84-96; sodium {value} = sodium|\\bNa\\b @119-127; pulse {value} = pulse|heart rate|bradycard @34-44",
    drugs="fludrocortisone 50/100 mcg once daily; betahistine 8/16 mg three times daily; midodrine 2.5/5 mg three times daily",
    tests="24-hour ECG = 24-hour|holter; cortisol = cortisol|synacthen; CT scan = \\bCT\\b",
    denied="hearing loss = hearing loss|deaf\\w*; fall = \\bfall\\b|\\bfell\\b|fallen; headache = headaches?", past="migraine = migraines?; labyrinthitis", ages=(40, 90),
  ),
  _case(
    "", "wheeze", r"wheez\w*", "I [have been|keep] wheezing",
    findings="peak flow {value} = peak flow|PEF @160-280; saturation {value} % = sat\\w*|SpO2|oxygen|O2 @90-93; prolonged expiration = prolonged",
    drugs="prednisolone 30/40 mg once daily; montelukast 5/10 mg at night; beclometasone 100/200 mcg twice daily",
    tests="spirometry = spirometr\\w*; chest X-ray = x-?ray|radiograph\\w*|\\bCXR\\b; allergen panel = panel|\\bIgE\\b",
    denied="fever = fever|febrile; chest pain = chest pain; new pet = \\bpets?\\b", past="croup; pneumonia", ages=(18, 70),
  ),
  _case(
    "", "vomiting", r"vomit\w*|throwing up|threw up|emesis", "I [have been vomiting|keep vomiting]",
    findings="potassium {value} = potassium|\\bK\\b @2.6-3.1; creatinine {value} = creat @138-240; dry tongue = dry (?:tongue|mouth)|dehydrat\\w*; lost {value} kg = lost|loss|weight @3-6",
    drugs="metoclopramide 5/10 mg three times daily; ondansetron 4/8 mg twice daily; omeprazole 20/40 mg once daily",
    tests="stool culture = stool; gastroscopy = gastroscop\\w*|endoscop\\w*; lipase = lipase|amylase",
    denied="fever = fever|febrile; blood in the vomit = blood in (?:the )?vomit|h[a]?ematemesis; headache = headaches?", past="gallstones = gall ?stones?; a hernia = hernia", ages=(20, 86),
  ),
)
# fmt: on

ALLERGENS = (
  Named("penicillin", "penicillin"),
  Named("codeine", "codeine"),
  Named("latex", "latex"),
  Named("trimethoprim", "trimethoprim"),
  Named("iodine", "iodine|contrast"),
  Named("egg", "eggs?"),
  Named("peanut", "(?:pea)?nuts?"),
  Named("aspirin", "aspirin"),
)
# No such drug, and no drug of its kind, is given to who is allergic.
CONFLICTS = {
  "penicillin": ("amoxicillin", "flucloxacillin", "cefalexin"),
  "codeine": ("codeine", "tramadol"),
  "trimethoprim": ("trimethoprim",),
  "aspirin": ("naproxen", "ibuprofen", "diclofenac", "celecoxib", "etoricoxib"),
}
# What no encounter states of the patient: text of a summary, expression.
NEVER = _named(
  "Smoker = smok(?:er|es|ing); Takes warfarin = warfarin; Has epilepsy = epilep\\w*; Has heart failure = heart failure; "
  "Has cirrhosis = cirrhosis|cirrhotic; Has dementia = dementia; Has lupus = lupus; Lives alone = lives alone; "
  "Takes methadone = methadone; Has HIV = \\bHIV\\b"
)
STANDING = _drugs("atorvastatin 20/40 mg at night; amitriptyline 10/25 mg at night; cetirizine 5/10 mg once daily")
NORMAL = ("chest clear", "heart sounds normal", "belly soft", "pupils equal", "throat normal", "reflexes normal")
