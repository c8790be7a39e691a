// Package layering holds one test: the floors of the project against what the packages
// really import. A new package must be given a floor there.
package layering
