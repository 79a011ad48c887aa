"""The sections of a report, a file each: profile -> Section, None where the profile has none of it."""
