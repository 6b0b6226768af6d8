"""The judgement: protocols, answer sets, judges and scorecards."""
