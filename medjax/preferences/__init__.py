"""Preference pairs made from a task's train rows: by its labels, a policy's own answers, mistakes put in, a judge."""
