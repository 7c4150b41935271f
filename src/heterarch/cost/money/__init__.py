"""Money: what hours, tokens, calls and runs cost, under which accounting, and what changes the ranking."""
