package audiofile_test

import (
	"context"
	"fmt"
	"io"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// A file becomes log-mel frames: decoded, mixed to one channel, resampled to 16 kHz, transformed.
func Example() {
	in, file, err := media.File("../../testdata/media/audio/flac_s16_44100_stereo.flac")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	r, err := audiofile.Open(context.Background(), in)
	if err != nil {
		panic(err)
	}
	fmt.Println(r.Codec, r.Rate, "Hz,", r.Channels, "channels,", r.Seconds(), "s")

	at16k, err := audiofile.NewResampler(audiofile.NewMixer(r), r.Rate, 16000)
	if err != nil {
		panic(err)
	}
	mel, err := audiofile.NewLogMel(at16k, audiofile.MelConfig{})
	if err != nil {
		panic(err)
	}
	frames, row := 0, make([]float32, mel.Mels)
	for ; err == nil; frames++ {
		err = mel.Next(row)
	}
	if err != io.EOF {
		panic(err)
	}
	fmt.Println(frames-1, "frames of", mel.Mels, "bands")
	// Output:
	// flac 44100 Hz, 2 channels, 0.8 s
	// 81 frames of 80 bands
}
