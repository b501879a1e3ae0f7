"""Records: the tables every result is written to and every report is built from. No torch here."""
