"""Fuzzing of everything that is read from files and command lines."""
