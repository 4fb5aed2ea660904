"""The version of fedsim; the build reads it from here."""

VERSION = "0.1.0"
