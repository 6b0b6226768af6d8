"""Measures as functions of arrays: no model, no file, no picture is loaded here."""
