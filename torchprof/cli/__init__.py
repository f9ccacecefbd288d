"""The command line: a file for each subcommand, all of them over the public functions of torchprof."""
