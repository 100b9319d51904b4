"""What each verb of the command line does; a module imports what its verbs need, and no more."""
