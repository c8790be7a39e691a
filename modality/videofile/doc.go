// Package videofile reads videos that need no video codec: animated GIF, a zip, directory or
// multipart body of pictures, and Motion-JPEG in AVI.
//
//	c, err := videofile.ReadConfig(ctx, header)    // frames, sizes, rate: structure only
//	v, err := videofile.Open(ctx, in)
//	defer v.Close()
//	img, err := v.Frame(ctx, i)                    // one frame, upright, on its canvas
//
// Opening walks the structure of a file (blocks, chunks, a directory) and decodes no pixel.
// Frames are decoded one at a time, by package imagefile, under its limits; an archive is never
// unpacked to disk, and no entry is read further than its directory says.
//
// Other containers are refused with their name: their frames can be given as pictures, or an
// adapter of one's own can be registered for them. To add a format here: a file with an open
// function, and a case in open.
package videofile
