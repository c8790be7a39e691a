package modality_test

import (
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality/modalitytest"
)

func audioSamples(t testing.TB, names ...string) (samples []modalitytest.Sample) {
	for _, n := range names {
		samples = append(samples, modalitytest.File(t, filepath.Join("..", "testdata", "media", "audio", n)))
	}
	return samples
}

func TestAudioConformance(t *testing.T) {
	for _, c := range []struct {
		name, options string
		samples       []string
	}{
		{"formats", `{"bands":4}`, []string{"hound-pop.wav", "flac_s16_22050_8ch.flac", "mp3_vbr_v9.mp3", "aiff_s16.aiff", "ogg_vorbis_22050_mono.ogg"}},
		{"as it is", `{"sample_rate":-1,"position":"none","patch":5,"channel":0}`, []string{"wav_streaming_ffffffff.wav", "rifx_be.wav"}},
		{"whisper", `{"preset":"whisper"}`, []string{"fsdd-7_george_0.wav"}},
		{"log-mel", `{"features":"logmel","n_fft":512,"win_length":401,"hop_length":100,"n_mels":23,"mel_scale":"htk","norm":"none","pad_mode":"none","log":"ln","length":16000}`, []string{"wav_s16_16000_mono.wav"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			modalitytest.Run(t, open(t, "audio", c.options), audioSamples(t, c.samples...)...)
		})
	}
}

func FuzzAudio(f *testing.F) {
	modalitytest.Fuzz(f, open(f, "audio", `{"features":"logmel","n_mels":8,"position":"none"}`),
		audioSamples(f, "hound-pop.wav", "wav_list_odd_chunk.wav", "mp3_cbr32_mono.mp3", "flac_truncated_4221.flac", "ogg_bad_crc.ogg")...)
}
