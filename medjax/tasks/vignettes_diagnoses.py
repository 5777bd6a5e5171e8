"""The diagnoses of the simulated vignettes: what tells each from those that are easily mistaken for it.

Within a cluster every finding belongs to one diagnosis only: a clinician who sees two findings of a diagnosis, one of
them marked as strong, and none of the others in the cluster, settles on it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sign:
  """One finding that tells a diagnosis from the others of its cluster.

  Attributes:
    text: template (see `simulator_draws.expand`) of a noun phrase.
    strong: whether it all but settles the diagnosis by itself.
    lasting: whether it never goes away, so that it cannot be said to be past.
    normal: for a measured value, the template of its normal result; empty for other findings.
  """

  text: str
  strong: bool = False
  lasting: bool = False
  normal: str = ""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """A diagnosis and how it shows.

  Attributes:
    name: the label.
    ages: youngest and oldest age in years.
    near: what it is most easily mistaken for, the nearest first.
    signs: its findings.
  """

  name: str
  ages: tuple[int, int]
  near: tuple[str, ...]
  signs: tuple[Sign, ...]


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Diagnoses that begin with the same complaint.

  Attributes:
    complaint: template of the complaint.
    shared: templates of findings that any of the diagnoses may have.
    diagnoses: the diagnoses.
  """

  complaint: str
  shared: tuple[str, ...]
  diagnoses: tuple[Diagnosis, ...]


def _signs(*lines: str) -> tuple[Sign, ...]:
  """Signs from compact notation: `*` in front is strong, `~` is lasting, ` / ` comes before the normal result."""
  signs = []
  for line in lines:
    text, _, normal = line.lstrip("*~").strip().partition(" / ")
    marks = line[: len(line) - len(line.lstrip("*~"))]
    signs.append(Sign(text, "*" in marks, "~" in marks, normal))
  return tuple(signs)


def _diagnosis(name: str, ages: tuple[int, int], near: str, *signs: str) -> Diagnosis:
  return Diagnosis(name, ages, tuple(near.split("|")), _signs(*signs))


CHEST = Cluster(
  "chest pain",
  ("pulse {96-108}", "looks [anxious|pale]", "pain {6-8}/10", "[sweaty|clammy]"),
  (
    _diagnosis(
      "myocardial infarction", (46, 80), "pericarditis|aortic dissection|pulmonary embolism",
      "*ST elevation confined to II, III and aVF",
      "*~[still anterior wall|motionless inferior wall] on echo",
      "[heavy|crushing] pressure spreading [to the jaw|into the left arm]",
      "rising troponin",
      "chest tightness on every stair",
    ),
    _diagnosis(
      "pulmonary embolism", (26, 76), "pneumothorax|myocardial infarction|pericarditis",
      "*[one swollen calf|swelling of one calf]",
      "*[strained right ventricle|enlarged right ventricle] on echo",
      "blood-streaked sputum",
      "leg in a plaster cast",
      "D-dimer {3100-5900} / D-dimer {110-280}",
    ),
    _diagnosis(
      "pericarditis", (19, 56), "myocardial infarction|pulmonary embolism",
      "*widespread ST elevation with PR depression",
      "*[scratchy rub over the heart|friction rub over the heart]",
      "[relief|pain easing] on leaning forward",
      "fluid around the heart on echo",
      "[feverish cold|sore throat with fever]",
    ),
    _diagnosis(
      "aortic dissection", (48, 80), "myocardial infarction|pulmonary embolism",
      "*arm pressures {35-50} mmHg apart / arm pressures {2-8} mmHg apart",
      "*[wide mediastinum|widened mediastinum] on X-ray",
      "*missing left radial pulse",
      "tearing pain between the shoulder blades",
      "~murmur of aortic leak",
    ),
    _diagnosis(
      "pneumothorax", (18, 40), "pulmonary embolism|pericarditis",
      "*[rim of air|line of air] beside the lung on X-ray",
      "*[hollow percussion|drum-like percussion] of one lung",
      "trachea pushed to one side",
      "air crackling under the skin of the neck",
      "pain that began with a pop in the chest",
    ),
  ),
)  # fmt: skip

ABDOMEN = Cluster(
  "abdominal pain",
  ("pulse {88-100}", "nausea", "vomited [once|twice]", "pain {6-8}/10", "poor appetite"),
  (
    _diagnosis(
      "appendicitis", (16, 50), "renal colic|diverticulitis|cholecystitis",
      "*[guarding|rebound pain] in the right lower belly",
      "*thickened appendix on [CT|ultrasound]",
      "pain moving from navel to right groin",
      "pain on stretching the right hip",
      "right-sided pain on pressing the left side",
    ),
    _diagnosis(
      "cholecystitis", (34, 76), "pancreatitis|appendicitis",
      "*catch of breath on pressing the gallbladder",
      "*thickened gallbladder wall on [CT|ultrasound]",
      "cramps after fatty meals",
      "pain spreading to the right shoulder blade",
      "tender swelling under the right ribs",
    ),
    _diagnosis(
      "pancreatitis", (30, 72), "cholecystitis|renal colic",
      "*lipase {920-2400} / lipase {18-46}",
      "*[swollen|inflamed] pancreas on CT",
      "pain boring through to the spine",
      "[heavy drinking|bout of drinking]",
      "bruising around the navel",
    ),
    _diagnosis(
      "diverticulitis", (44, 82), "renal colic|appendicitis",
      "*[guarding|tender swelling] in the left lower belly",
      "*inflamed sigmoid pouches on CT",
      "left-sided cramps with loose stools",
      "thickened sigmoid wall on ultrasound",
      "air in the urine stream",
    ),
    _diagnosis(
      "renal colic", (22, 64), "appendicitis|diverticulitis|pancreatitis",
      "*stone in the ureter on CT",
      "*dilated kidney on ultrasound",
      "waves of pain from flank to groin",
      "restless pacing during the pain",
      "blood on the urine dipstick",
    ),
  ),
)  # fmt: skip

HEAD = Cluster(
  "headache",
  ("nausea", "pain {7-9}/10", "pressure {128-142}/{74-86}", "little sleep", "paracetamol did nothing"),
  (
    _diagnosis(
      "migraine", (18, 52), "cluster headache|subarachnoid haemorrhage|meningitis",
      "*[zigzag lights|shimmering zigzags] before the pain",
      "*[growing blind spot|creeping tingling] of 20 minutes",
      "[throbbing|pounding] that stairs make worse",
      "attacks after chocolate or missed meals",
      "attacks of one or two days",
    ),
    _diagnosis(
      "cluster headache", (24, 58), "migraine|giant cell arteritis",
      "*[red|watering] eye on the painful side",
      "*[drooping lid|small pupil] on the painful side",
      "[blocked|running] nostril on the painful side",
      "hourlong stabs behind one eye",
      "attacks at two each night",
    ),
    _diagnosis(
      "subarachnoid haemorrhage", (32, 76), "meningitis|migraine",
      "*blood around the brain stem on CT",
      "*[yellow|evenly blood-stained] spinal fluid",
      "[thunderclap onset|full force within a second]",
      "[collapse|fainting] at the first moment of pain",
      "bleeding in the retina",
    ),
    _diagnosis(
      "meningitis", (17, 66), "subarachnoid haemorrhage|migraine",
      "*[cloudy|turbid] spinal fluid",
      "*[non-blanching|purple] rash on the legs",
      "temperature {39.1-40.3} / temperature {36.4-36.9}",
      "shaking chills",
      "ear infection",
    ),
    _diagnosis(
      "giant cell arteritis", (58, 86), "cluster headache|subarachnoid haemorrhage",
      "*jaw pain on chewing",
      "*[thick|pulseless] temple artery",
      "ESR {78-112} / ESR {6-18}",
      "sore scalp on combing",
      "stiff shoulders each morning",
    ),
  ),
)  # fmt: skip

BREATH = Cluster(
  "breathlessness",
  ("pulse {94-108}", "breathing rate {22-28}", "tires easily", "little sleep", "dry mouth"),
  (
    _diagnosis(
      "heart failure", (56, 88), "COPD exacerbation|pneumonia|anaemia",
      "*[raised|swollen] neck veins",
      "*third heart sound",
      "need for three pillows at night",
      "[pitting|soft] swelling of both ankles",
      "BNP {1100-2900} / BNP {20-60}",
    ),
    _diagnosis(
      "asthma", (18, 52), "COPD exacerbation|pneumonia",
      "*~peak flow up by a third after salbutamol",
      "*raised nitric oxide in the breath",
      "wheeze after stroking [cats|horses]",
      "dry night cough each spring",
      "~hay fever and eczema",
    ),
    _diagnosis(
      "COPD exacerbation", (52, 84), "heart failure|asthma|pneumonia",
      "*~airflow obstruction unchanged by salbutamol",
      "*~barrel chest with pursed-lip breathing",
      "~flat diaphragms on X-ray",
      "{40-60} pack-years of smoking / 0 pack-years of smoking",
      "~years of daily sputum",
    ),
    _diagnosis(
      "pneumonia", (20, 84), "heart failure|COPD exacerbation|asthma",
      "*[shadow over|clouding of] one lobe on X-ray",
      "*bronchial breathing at one base",
      "temperature {39.1-40.1} / temperature {36.4-36.9}",
      "rusty sputum",
      "shaking chills",
    ),
    _diagnosis(
      "anaemia", (20, 80), "heart failure|asthma",
      "*haemoglobin {5.6-7.2} / haemoglobin {13.6-15.1}",
      "*[pale inner eyelids|pale hand creases]",
      "[black|tarry] stools for weeks",
      "craving for ice",
      "[smooth tongue|spoon-shaped nails]",
    ),
  ),
)  # fmt: skip

JOINT = Cluster(
  "joint pain",
  ("limping", "pain {6-8}/10", "little sleep", "ibuprofen helped a little", "tires easily"),
  (
    _diagnosis(
      "gout", (38, 80), "septic arthritis|rheumatoid arthritis",
      "*~[needle crystals|urate crystals] in the joint fluid",
      "*~chalky lumps on the ear",
      "[reddened big toe|big toe too sore for a sheet]",
      "feast of beer and shellfish",
      "use of water tablets",
    ),
    _diagnosis(
      "septic arthritis", (24, 82), "gout|rheumatoid arthritis",
      "*[bacteria|pus] in the joint fluid",
      "*[staphylococci|streptococci] in the blood culture",
      "temperature {39.1-40.1} / temperature {36.4-36.9}",
      "shaking chills",
      "weeping wound beside the joint",
    ),
    _diagnosis(
      "rheumatoid arthritis", (26, 70), "osteoarthritis|septic arthritis|gout",
      "*~raised anti-CCP antibodies",
      "*~[eroded knuckles|eroded finger joints] on X-ray",
      "morning stiffness of {90-150} minutes / morning stiffness of {5-15} minutes",
      "[soft swelling|puffy swelling] of both wrists",
      "~rubbery nodules at the elbows",
    ),
    _diagnosis(
      "osteoarthritis", (52, 86), "rheumatoid arthritis|gout",
      "*~[bone spurs|bony outgrowths] on X-ray",
      "*~[bony|hard] lumps at the fingertip joints",
      "~narrow joint space on X-ray",
      "pain on walking that rest relieves",
      "[grating|creaking] of the knee on bending",
    ),
  ),
)  # fmt: skip

CLUSTERS = (CHEST, ABDOMEN, HEAD, BREATH, JOINT)
DIAGNOSES = tuple(diagnosis for cluster in CLUSTERS for diagnosis in cluster.diagnoses)
