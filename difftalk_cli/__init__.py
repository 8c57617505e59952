"""The command line: options -> Config -> stages.<stage>.run -> report. The only place that prints."""
