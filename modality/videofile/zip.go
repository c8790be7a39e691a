package videofile

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
)

// entryName is the most bytes of a directory record on average, names and extra fields in.
const entryBytes = 1 << 10

// openZip opens an archive of pictures, in natural order of their paths, and at most one sound
// track. Hidden files and the folders that macOS adds are passed over.
func openZip(f *file) (*Video, error) {
	if err := checkDirectory(f); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(media.NewReaderAt(f.ctx, f.at), f.size)
	if err != nil {
		return nil, media.Wrap(err, media.Malformed, "video: zip")
	}
	var frames []*zip.File
	v := &Video{Config: Config{MediaType: "application/zip"}}
	for _, e := range z.File {
		if err := checkEntry(e, f); err != nil {
			return nil, err
		}
		base := path.Base(e.Name)
		switch {
		case !e.Mode().IsRegular() || strings.HasPrefix(base, ".") || strings.HasPrefix(e.Name, "__MACOSX/"):
		case isPicture(base):
			frames = append(frames, e)
		case isAudio(base) && v.Config.Audio == "":
			v.Config.Audio = e.Name
			v.audio = &media.Input{Name: e.Name, Size: int64(e.UncompressedSize64), At: &entryAt{entry: e, limit: f.limits.Decoded}, Limits: f.limits}
		default:
			v.Notes = append(v.Notes, "zip entry passed over: "+clip(e.Name))
			if len(v.Notes) > 8 {
				return nil, media.Errorf(media.Unsupported, "video: zip: entries that are neither pictures nor sound, such as %q", clip(e.Name))
			}
		}
	}
	if len(frames) == 0 {
		return nil, media.Errorf(media.Empty, "video: zip: no pictures among %d entries", len(z.File))
	}
	if err := media.Check("video: frames", f.limits.Frames, len(frames)); err != nil {
		return nil, err
	}
	slices.SortStableFunc(frames, func(a, b *zip.File) int { return natural(a.Name, b.Name) })
	v.Frames = len(frames)
	p := &pictures{limits: f.limits, load: func(ctx context.Context, i int) (media.Input, error) {
		b, err := readEntry(ctx, frames[i])
		return media.Bytes(frames[i].Name, b), err
	}}
	return v, v.first(f.ctx, p)
}

// checkDirectory finds the end record and checks the size of the directory, which the zip
// reader will hold, before it does.
func checkDirectory(f *file) error {
	const endBytes = 22
	n := min(f.size, endBytes+1<<16)
	tail := make([]byte, n)
	if _, err := f.at.ReadAt(tail, f.size-n); err != nil && err != io.EOF {
		return media.Wrap(err, media.Unreadable, "video: zip")
	}
	at := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if at < 0 || at+endBytes > len(tail) {
		return media.Errorf(media.Truncated, "video: zip: no end of the directory")
	}
	le := binary.LittleEndian
	count, size, offset := int(le.Uint16(tail[at+10:])), int64(le.Uint32(tail[at+12:])), int64(le.Uint32(tail[at+16:]))
	switch end := f.size - n + int64(at); {
	case count == 0xffff || size == 0xffffffff || offset == 0xffffffff:
		return media.Errorf(media.Unsupported, "video: zip: 64-bit archive")
	case offset+size != end:
		return media.Errorf(media.Malformed, "video: zip: directory of %d bytes at %d does not end at %d", size, offset, end)
	case size > int64(f.limits.Parts)*entryBytes:
		return media.Exceeds("video: zip: directory bytes", float64(f.limits.Parts)*entryBytes, float64(size))
	}
	return media.Check("video: zip: entries", f.limits.Parts, count)
}

// checkEntry refuses names that point outside the archive, encryption, and claims of sizes
// that no deflate stream reaches.
func checkEntry(e *zip.File, f *file) error {
	const deflateMost = 1032 // bytes from one
	clean := strings.ReplaceAll(e.Name, `\`, "/")
	switch {
	case path.IsAbs(clean) || slices.Contains(strings.Split(clean, "/"), "..") || strings.Contains(clean, ":") || strings.ContainsRune(clean, 0):
		return media.Errorf(media.Malformed, "video: zip: entry %q names a place outside the archive", clip(e.Name))
	case e.Flags&1 != 0:
		return media.Errorf(media.Unsupported, "video: zip: encrypted entry %q", clip(e.Name))
	case e.Method != zip.Store && e.Method != zip.Deflate:
		return media.Errorf(media.Unsupported, "video: zip: entry %q: compression method %d", clip(e.Name), e.Method)
	case e.CompressedSize64 > uint64(f.size):
		return media.Errorf(media.Truncated, "video: zip: entry %q: %d bytes in an archive of %d", clip(e.Name), e.CompressedSize64, f.size)
	case e.UncompressedSize64 > uint64(f.limits.Decoded):
		return media.Exceeds("video: zip: entry bytes", float64(f.limits.Decoded), float64(e.UncompressedSize64))
	case e.UncompressedSize64 > deflateMost*(e.CompressedSize64+1):
		return media.Errorf(media.Malformed, "video: zip: entry %q: %d bytes cannot come from %d", clip(e.Name), e.UncompressedSize64, e.CompressedSize64)
	}
	return nil
}

// readEntry unpacks one entry, and no more than its directory record says.
func readEntry(ctx context.Context, e *zip.File) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, media.Wrap(err, media.Malformed, "video: zip: "+clip(e.Name))
	}
	defer r.Close()
	b, err := io.ReadAll(media.NewReader(ctx, r, int64(e.UncompressedSize64)))
	return b, media.Wrap(err, media.Malformed, "video: zip: "+clip(e.Name))
}

// entryAt reads an entry at any place, unpacking it when it is first read.
type entryAt struct {
	entry *zip.File
	limit int64
	data  []byte
}

// ReadAt implements io.ReaderAt.
func (a *entryAt) ReadAt(p []byte, off int64) (int, error) {
	if a.data == nil {
		data, err := readEntry(context.Background(), a.entry)
		if err != nil {
			return 0, err
		}
		a.data = data
	}
	return bytes.NewReader(a.data).ReadAt(p, off)
}

func isPicture(name string) bool {
	switch ext(name) {
	case ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif":
		return true
	}
	return false
}
