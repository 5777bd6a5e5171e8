import pytest

from medjax.data.column_names import names_to_review


@pytest.mark.parametrize(
  "name",
  [
    "Disposition", "ED_disposition", "outcome", "primaryOutcome", "Discharge date", "discharged",
    "Length of stay_min", "icuLOS", "los_days", "ED LOS", "LOS", "KTAS duration_min", "Visit Duration",
    "in_hospital_mortality", "death_date", "died", "Dead", "survival", "survived30d", "expired",
    "hospital_expire_flag_expired", "vital_status", "readmission", "Readmitted", "readmit30", "Diagnosis in ED",
    "final_diagnosis", "dischargeDx", "icd10", "ICD-9 code", "cpt_code", "DRG", "Error_group", "Mistriage Category",
    "follow-up", "follow up visit", "followUpDate", "result of biopsy", "culture_result", "billing_code", "claims",
    "status", "case_status", "final score", "days_to_death", "Days to relapse", "admitted", "Claim Amount",
  ],
)  # fmt: skip
def test_names_of_what_is_known_later(name):
  assert list(names_to_review(["age", name, "sex"])) == [name]


@pytest.mark.parametrize(
  "name",
  [
    "blood loss", "Glossitis", "closed_fracture", "los_angeles_county", "Mental status", "smoking_status",
    "maritalStatus", "nasal discharge", "vaginal_discharge", "prior_diagnosis", "family history of death",
    "Past diagnoses", "symptom_duration", "Duration of fever", "refractive_error", "Age", "Chief_complain",
    "Systolic BP", "KTAS_Nurse", "TSH", "FTI", "deadlift", "description", "terror", "studied", "Pain", "statusquo",
    "billirubin", "timeline", "finality", "medicine", "patient_id", "section_text", "dialogue", "Group",
    "Arrival mode", "Injury", "drug",
  ],
)  # fmt: skip
def test_names_of_what_is_known_before(name):
  assert names_to_review([name]) == {}


def test_each_name_is_told_why_in_the_order_given():
  found = names_to_review(["status", "age", "ED LOS", "died"])
  assert list(found) == ["status", "ED LOS", "died"]
  assert found["ED LOS"] == "length of stay" and found["died"] == "death or survival"
