package pipeline

// SliceSizes is sliceSizes, for the tests outside.
var SliceSizes = sliceSizes
