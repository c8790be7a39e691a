// Package media holds what every decoder of foreign bytes shares: an Input (the bytes and how
// they may be read), a Header (what can be known of it before any decoding), Limits, one list
// of error codes, and readers that stop when a context does.
//
//	in := media.Bytes("cat.png", data)          // or media.File, media.Stream
//	h, err := in.Header()                       // name, declared type, size, first bytes
//	r := media.NewReader(ctx, in.Reader(), h.Limits.WithDefaults().Bytes)
//
// Decoders (modality/imagefile, modality/audiofile, …) import this package and nothing of
// modality. To add a decoder: take a context and an Input, check Limits before and while
// decoding, and return *Error for anything wrong with the bytes.
package media
