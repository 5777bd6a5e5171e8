"""Words of simulated notes on urinary tract infection: symptoms, findings, and the frames that give them a status."""

# fmt: off

# Symptoms and signs that point to the urinary tract, by name. Each phrase fits every frame below.
URINARY = {
  "dysuria": ("dysuria", "dysuria", "burning on urination", "painful urination"),
  "urgency": ("urinary urgency", "urgency", "sudden urges to void"),
  "frequency": ("urinary frequency", "frequency", "voiding every {2-3} hours"),
  "suprapubic": ("suprapubic pain", "suprapubic tenderness"),
  "flank": ("CVA tenderness", "[left|right] flank pain"),
}
# Complaints that do not, with a cause each.
OTHER = {
  "cough": "bronchitis", "sore throat": "tonsillitis", "knee pain": "arthritis", "headache": "migraine",
  "ankle swelling": "varicose veins", "itchy arm rash": "eczema", "nausea": "gastritis", "constipation": "codeine",
  "dizziness": "low blood pressure", "loose stools": "stomach bug", "runny nose": "hay fever",
  "shoulder pain": "bursitis", "heartburn": "reflux", "ear pain": "ear infection", "palpitations": "anxiety",
  "hand numbness": "carpal tunnel syndrome",
}
# Recognized causes other than infection, by symptom; `F` before a colon: women only.
CAUSES = {
  "dysuria": ("F:vaginal candidiasis", "genital herpes", "soap irritation"),
  "urgency": ("overactive bladder", "bladder stone"),
  "frequency": ("high blood sugar", "overactive bladder"),
  "suprapubic": ("F:ovarian cyst", "pulled abdominal muscle"),
  "flank": ("kidney stone", "shingles"),
}

AGO = "[last month|last winter|last year|in {2015-2023}|{4-9} weeks ago|{3-8} months ago]"
FAMILY = {"F": "sister|husband|roommate|cousin", "M": "sister|wife|roommate|cousin"}

# What a list of symptoms ({s}) means, by status. The same lists stand in all, joined so that their end is clear.
JOINTS = {"live": (", ", " and "), "denied": (" or ",), "past": (" and ",), "family": (" and ",)}
FRAMES = {
  "live": (
    "{s} for {2-6} days", "{s} since [yesterday|Monday|the weekend]", "c/o {s}", "reports {s}", "has {s}",
    "[here for|presents with] {s}", "{s} started {2-4} days ago",
  ),
  "denied": ("denies {s}", "denies {s}", "no {s}", "{s} denied", "without {s}", "negative for {s}"),
  "past": (
    "{s} {ago}, resolved", "had {s} {ago}, [resolved|none since]", "h/o {s} {ago}", "{ago} {s}, [resolved|none since]",
  ),
  "family": (
    "{family} [has|reports] {s}", "{s} in the {family}, not the patient", "{family} here for {s}",
    "{family} has {s} since [yesterday|Monday]",
  ),
}
EXPLAINED = (
  "{live}, [due to|from|explained by] {cause}", "{cause} found, it explains the {s}", "{live}, cause is {cause}",
)
NOT_THE_CAUSE = ("no {cause}", "{cause} [excluded|ruled out]", "{cause} {ago}, [over|settled]", "{family} has {cause}")

# The urine result ({r}) of this visit, and results that are not. {t} is the test.
TESTS = {"culture": "[urine culture|culture|urine cx]", "urinalysis": "[urinalysis|UA|urine]"}
RESULTS = {
  "now": ("{t} today: {r}", "today's {t}: {r}", "{t} this visit: {r}", "current {t}: {r}"),
  "past": ("{t} {ago}: {r}", "{ago} {t}: {r}", "old {t}, {ago}: {r}", "{t} sent {ago}: {r}"),
  "family": ("{family}'s {t}: {r}", "{t} of the {family}: {r}"),
}
BACTERIA = ("E. coli", "E. coli", "Klebsiella", "Proteus", "Enterococcus", "Pseudomonas", "Staph saprophyticus")

# Stand beside every label alike: opinions, histories, background, vital signs.
OPINIONS = (
  "possible UTI per triage", "?UTI", "sent in for r/o UTI", "GP suspects UTI", "thinks it is a UTI",
  "UTI thought unlikely at triage", "worried about UTI", "doubts it is a UTI", "query UTI",
)
HISTORIES = (
  "UTI {ago}, treated", "recurrent UTIs", "{family} gets UTIs", "no past UTI", "frequent UTIs as a child",
  "pyelonephritis {ago}, resolved", "FH of UTI", "never had a UTI",
)
BACKGROUNDS = (
  "type 2 diabetes", "hypertension", "asthma", "hypothyroid", "on metformin", "on lisinopril", "osteoarthritis",
  "gout", "no drugs", "atrial fibrillation", "healthy", "depression, on sertraline", "penicillin allergy",
)
VITALS = (
  "T {36.3-37.4}", "afebrile", "BP {112-138}/{66-84}", "HR {62-92}", "T {36.3-37.4}, HR {62-92}",
  "vitals normal", "BP {112-138}/{66-84}, afebrile", "sat {96-99}%",
)
OPENINGS = {
  "F": "[{age} [y/o|yo] [F|woman|female]|{age}F|woman, {age}|F {age}|{age} year old woman]",
  "M": "[{age} [y/o|yo] [M|man|male]|{age}M|man, {age}|M {age}|{age} year old man]",
}

ABBREVIATIONS = (
  ("days", "d"), ("weeks", "wks"), ("months", "mths"), ("with", "w/"), ("without", "w/o"), ("and", "&"),
  ("positive", "pos"), ("negative", "neg"), ("reports", "rep."),
)
