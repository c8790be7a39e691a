// Package pointfile reads point clouds: PLY, PCD, OFF, OBJ vertices, LAS, NPY, delimited text
// and JSON arrays, as a forward stream of points.
//
//	r, err := pointfile.Open(f, pointfile.Options{Size: size})
//	// r.Header now says how many points and which attributes, and the claims have been
//	// checked against the size of the file and the limits
//	block := make([]pointfile.Point, 4096)
//	for {
//		n, err := r.Read(block)
//		…                                  // block[:n]; io.EOF after the last
//	}
//
// A Reader holds one buffer whatever the size of the file, except for the two layouts that
// store column after column (compressed PCD, Fortran-ordered NPY), whose size is checked
// against the byte limit first. Nothing is allocated from a count that the file only claims.
//
// To add a format, write its open function and add a line to the table in formats.go.
package pointfile
