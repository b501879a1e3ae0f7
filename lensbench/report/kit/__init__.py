"""What every report is made of: tables, numbers, figures, Markdown and pages."""
