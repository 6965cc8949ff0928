"""Children that never outlive their parent: start them, bind them to a lifeline, kill and reap their groups."""
