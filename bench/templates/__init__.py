"""What the page's gallery shows: cards (titles, notes, pictures), published files, layout. Data in JSON beside this file."""
