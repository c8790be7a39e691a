package imagefile_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// FuzzDecode: any bytes give a picture of the size their header says or an error with a code,
// in bounded time.
func FuzzDecode(f *testing.F) {
	for _, e := range manifest(f) {
		if in := load(f, e.File); in.Size < 3000 {
			data := make([]byte, in.Size)
			_, _ = in.At.ReadAt(data, 0)
			f.Add(data)
		}
	}
	limits := media.Limits{Pixels: 1 << 20, Decoded: 32 << 20, Frames: 100, Time: 5 * time.Second}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := media.Bytes("", data)
		in.Limits = limits
		h, err := in.Header()
		if err != nil {
			return
		}
		o := imagefile.Options{TIFF: true}
		c, planned := imagefile.ReadConfig(t.Context(), h, o)
		start := time.Now()
		img, err := imagefile.Decode(t.Context(), in, o)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil {
			if media.CodeOf(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		if planned != nil {
			t.Errorf("decoded what the header refuses: %v", planned)
		}
		if img.Rect.Dx() != c.Width || img.Rect.Dy() != c.Height {
			t.Errorf("%v, planned %d×%d", img.Rect, c.Width, c.Height)
		}
	})
}

// FuzzResize: any sizes give a picture of that size.
func FuzzResize(f *testing.F) {
	f.Add(uint8(3), uint8(5), uint8(7), uint8(2), uint8(3))
	f.Fuzz(func(t *testing.T, w, h, tw, th, filter uint8) {
		p := imagefile.NewRGB(int(w)+1, int(h)+1)
		for i := range p.Pix {
			p.Pix[i] = 200
		}
		out := p.Resize(int(tw)+1, int(th)+1, imagefile.Filter(filter%6))
		for i, v := range out.Pix {
			if v != 200 { // weights sum to one: an even picture stays even
				t.Fatalf("value %d became %d", i, v)
			}
		}
	})
}

// TestTurn: the eight orientations put the same mark in the right corner.
func TestTurn(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(mediaDir(), "image", "exif_land_*.jpg"))
	if len(files) == 0 {
		t.Fatal("no pictures")
	}
	for _, name := range files {
		in := load(t, filepath.Join("image", filepath.Base(name)))
		stored, err := imagefile.Decode(t.Context(), in, imagefile.Options{AsStored: true})
		if err != nil {
			t.Fatal(err)
		}
		up, err := imagefile.Decode(t.Context(), in, imagefile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if up.Orientation == 0 || stored.Orientation != 1 {
			t.Errorf("%s: orientation %d and %d", name, up.Orientation, stored.Orientation)
		}
		if turned := up.Orientation >= 5; turned != (up.Rect.Dx() != stored.Rect.Dx()) {
			t.Errorf("%s: %v from %v", name, up.Rect, stored.Rect)
		}
	}
}
