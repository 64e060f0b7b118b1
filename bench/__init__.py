"""What the speed of cymlp is measured with; see README.md.  Part of a checkout, not of the installed package."""
