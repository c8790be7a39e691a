// Package audiofile turns sound files into samples: WAV (RIFF, RIFX, RF64), AIFF, MP3, FLAC and
// Ogg Vorbis; and samples into what models read: one channel, another sample rate, log-mel
// frames. Everything is a stream read forwards in blocks, so an hour of sound costs no more
// memory than a second, and the size of the blocks never changes a bit of the result.
//
//	r, err := audiofile.Open(ctx, media.Bytes("speech.flac", data))
//	mono := audiofile.NewMixer(r)                                  // r.Info: rate, channels, samples
//	at16k, err := audiofile.NewResampler(mono, r.Info.Rate, 16000)
//	mel, err := audiofile.NewLogMel(at16k, audiofile.MelConfig{})  // frames × mels
//
// Probe answers from the header alone, without decoding a sample.
//
// Shapes: a Reader gives interleaved samples (frames × channels) in [-1,1]; a Signal gives one
// channel. "Frames" of a Reader are samples per channel.
//
// To add a format: a function that reads its header into an Info and returns a decoder, and a
// line in the table of formats in open.go.
package audiofile
