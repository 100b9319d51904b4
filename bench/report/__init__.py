"""Tables, figures and comparisons as pure functions of recorded runs."""
