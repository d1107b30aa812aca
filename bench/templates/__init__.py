"""What the page's gallery shows: cards (titles, notes, pictures), published files, layout. Its data are JSON files."""
