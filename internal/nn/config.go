package nn

// Stated is what a configuration says, or otherwise where it leaves the key out.
func Stated[T any](said *T, otherwise T) T {
	if said == nil {
		return otherwise
	}
	return *said
}
