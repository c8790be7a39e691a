package external

// Crowded reports whether as many processes are at work as may be.
func Crowded(p *Plugin) bool { return len(p.turns) == cap(p.turns) }
