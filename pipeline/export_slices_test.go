package pipeline

// SliceSizes are the heights and widths that MiniCPM-V's published slicing makes of a w×h
// picture.
func SliceSizes(w, h int) [][2]int { return (&slicer{side: 448, patch: 14, most: 9}).sizes(w, h) }
