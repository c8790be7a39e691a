package pipeline

import (
	"encoding/binary"
	"io"
	"math"
)

// AutoencoderRate is the sample rate of the multimodal autoencoder's sound, Hz
// (deepmind-research perceiver/colabs/video_autoencoding.ipynb).
const AutoencoderRate = 48000

// WriteWAV writes mono samples of −1..1, clipped, as 16-bit PCM.
func WriteWAV(w io.Writer, samples []float32, rate int) error {
	n := uint32(2 * len(samples))
	head := struct {
		RIFF         [4]byte
		Size         uint32
		WAVE, Fmt    [4]byte
		FmtSize      uint32
		Format       uint16
		Channels     uint16
		Rate         uint32
		BytesPerSec  uint32
		BlockAlign   uint16
		BitsPerValue uint16
		Data         [4]byte
		DataSize     uint32
	}{
		RIFF: [4]byte([]byte("RIFF")), Size: 36 + n, WAVE: [4]byte([]byte("WAVE")), Fmt: [4]byte([]byte("fmt ")),
		FmtSize: 16, Format: 1, Channels: 1, Rate: uint32(rate), BytesPerSec: uint32(2 * rate), BlockAlign: 2, BitsPerValue: 16,
		Data: [4]byte([]byte("data")), DataSize: n,
	}
	if err := binary.Write(w, binary.LittleEndian, head); err != nil {
		return err
	}
	pcm := make([]int16, len(samples))
	for i, x := range samples {
		pcm[i] = int16(math.Round(float64(min(max(x, -1), 1)) * math.MaxInt16))
	}
	return binary.Write(w, binary.LittleEndian, pcm)
}
