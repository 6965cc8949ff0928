"""Children that never outlive their parent: started, bound to a lifeline, killed and reaped as a group."""
