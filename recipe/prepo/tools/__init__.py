"""Tools that read what runs leave: report, evaluation, analysis."""
