"""Fast, exact evaluations, each beside the slow obvious version it is tested against."""
