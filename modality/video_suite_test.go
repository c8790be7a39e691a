package modality_test

import (
	"testing"

	"github.com/mmserve/mmserve/modality/modalitytest"
)

func TestVideoConformance(t *testing.T) {
	frames := modalitytest.Sample{Name: "frames", Parts: []modalitytest.Sample{
		{Name: "b.png", Data: pngFrame(t)}, {Name: "a.png", Data: pngFrame(t)}, {Name: "c.wav", Data: wavOf(1600)}}}
	zipped := modalitytest.Sample{Name: "a.zip", Data: zipVideo(t, 5, 20, 12)}
	body := modalitytest.Sample{MediaType: "multipart/mixed; boundary=b", Data: []byte(
		"--b\r\nContent-Type: image/png\r\n\r\n" + string(pngFrame(t)) + "\r\n--b\r\n\r\n" + string(pngFrame(t)) + "\r\n--b--\r\n")}
	animation := modalitytest.File(t, pointFile(t, "image/anim_6.gif"))
	for _, c := range []struct {
		name, options string
		samples       []modalitytest.Sample
	}{
		{"sources", `{"size":16,"bands":2}`, []modalitytest.Sample{animation, zipped, body, frames}},
		{"spread and padded", `{"size":12,"frames":8,"pad":true,"sampling":"uniform","patch":[2,3,4],"values":"signed","position":"none","filter":"bicubic","crop":"none"}`,
			[]modalitytest.Sample{animation, zipped}},
		{"at a rate", `{"size":12,"frames":0,"sampling":"rate","rate":4,"bands":1}`, []modalitytest.Sample{animation}},
		{"with sound", `{"size":16,"bands":2,"audio":{}}`, []modalitytest.Sample{frames}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			modalitytest.Run(t, openVideo(t, c.options), c.samples...)
		})
	}
}

func FuzzVideo(f *testing.F) {
	modalitytest.Fuzz(f, openVideo(f, `{"size":8,"frames":2,"bands":1}`), modalitytest.Sample{Data: zipVideo(f, 1, 3, 3)})
}
