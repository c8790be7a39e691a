// Package imagefile reads picture files: PNG, JPEG, GIF, WebP, BMP and, where enabled, TIFF.
//
//	c, err := imagefile.ReadConfig(ctx, header, imagefile.Options{})   // sizes and limits, nothing decoded
//	img, err := imagefile.Decode(ctx, in, imagefile.Options{})         // upright, 8-bit NRGBA
//	rgb := img.RGB(imagefile.DropAlpha)
//	small := rgb.Resize(224, 224, imagefile.Bicubic)                   // equal to Pillow, bit for bit
//
// The format is found by signature and the one decoder for it is called; image.Decode, which
// would try every decoder that any import registered, never is. Sizes, scans and frames are
// checked against media.Limits from the header, and a header that promises more pixels than its
// bytes can hold is refused before anything is allocated.
//
// Two resizers live here. Resize is written out in integers as Pillow computes it, and is what
// models see. Package imaging turns, mirrors and makes thumbnails for people; its filters are
// within one level of Pillow's, which is not enough for a model. Nothing but an *image.NRGBA
// made here ever reaches it: a paletted picture with an index beyond its palette would take the
// process down from a goroutine that no recover reaches (CVE-2023-36308).
//
// To add a format: a file with a config function and a decode function, and a row in formats.
package imagefile
