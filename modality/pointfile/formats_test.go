package pointfile_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/pointfile"
)

// all reads a file in memory, in blocks of block points.
func all(data []byte, format string, block int) (pointfile.Header, []pointfile.Point, error) {
	r, err := pointfile.Open(bytes.NewReader(data), pointfile.Options{Size: int64(len(data)), Format: format})
	if err != nil {
		return pointfile.Header{}, nil, err
	}
	var out []pointfile.Point
	buf := make([]pointfile.Point, block)
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n]...)
		if err == io.EOF {
			return r.Header, out, nil
		}
		if err != nil {
			return r.Header, out, err
		}
	}
}

// join writes values in a byte order.
func join(order binary.AppendByteOrder, head string, values ...any) []byte {
	var b bytes.Buffer
	b.WriteString(head)
	for _, v := range values {
		binary.Write(&b, order.(binary.ByteOrder), v)
	}
	return b.Bytes()
}

// las returns a LAS file of one point at (100.5, -2.25, 0.001).
func las(minor, format byte, record int) []byte {
	b := make([]byte, 375)
	copy(b, "LASF")
	b[24], b[25] = 1, minor
	le := binary.LittleEndian
	le.PutUint16(b[94:], 375)
	le.PutUint32(b[96:], 400)
	b[104] = format
	le.PutUint16(b[105:], uint16(record))
	if minor < 4 {
		le.PutUint32(b[107:], 1)
	} else {
		le.PutUint64(b[247:], 1)
	}
	for i, scale := range []float64{0.5, 0.25, 0.001} {
		le.PutUint64(b[131+8*i:], math.Float64bits(scale))
	}
	le.PutUint64(b[155:], math.Float64bits(100))
	b = append(b, make([]byte, 25+record)...)
	p := b[400:]
	le.PutUint32(p, 1)
	le.PutUint32(p[4:], uint32(0xfffffff7)) // -9
	le.PutUint32(p[8:], 1)
	le.PutUint16(p[12:], 65535)
	for _, at := range map[byte][]int{2: {20}, 3: {28}, 5: {28}, 7: {30}, 8: {30}, 10: {30}}[format] {
		le.PutUint16(p[at:], 65535)
		le.PutUint16(p[at+4:], 13107)
	}
	return b
}

func TestFormats(t *testing.T) {
	be := binary.BigEndian
	le := binary.LittleEndian
	plain := pointfile.Point{XYZ: [3]float64{1, 2, 3}}
	colored := pointfile.Point{XYZ: [3]float64{1, 2, 3}, Color: [3]float32{1, 0, 0.2}}
	lasPoint := pointfile.Point{XYZ: [3]float64{100.5, -2.25, 0.001}, Intensity: 1}
	lasColor := lasPoint
	lasColor.Color = [3]float32{1, 0, 0.2}
	plyHead := func(format, props string) string {
		return "ply\nformat " + format + " 1.0\nelement camera 1\nproperty list uchar short k\nproperty int id\nelement vertex 1\n" + props + "end_header\n"
	}
	xyz := "property float x\nproperty float y\nproperty float z\n"
	for _, c := range []struct {
		name, format string
		data         []byte
		want         pointfile.Point
	}{
		{"ply ascii, a list element in front", "", []byte(plyHead("ascii", xyz) + "2 7 8 9\n1 2 3\n"), plain},
		{"ply binary, a list element in front", "", join(le, plyHead("binary_little_endian", xyz), []uint8{2}, []int16{7, 8}, int32(9), []float32{1, 2, 3}), plain},
		{"ply big endian, a list in the vertex", "", join(be, plyHead("binary_big_endian", "property list uint8 float64 w\nproperty double z\nproperty int16 y\nproperty uint16 x\n"),
			[]uint8{0}, int32(9), []uint8{2}, []float64{5, 6}, float64(3), int16(2), uint16(1)), plain},
		{"ply ascii, a list in the vertex", "", []byte(plyHead("ascii", "property list uint8 float w\n"+xyz) + "0 9\n3 9 9 9 1 2 3\n"), plain},
		{"ply colours", "", join(le, "ply\nformat binary_little_endian 1.0\nelement vertex 1\n"+xyz+"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n",
			[]float32{1, 2, 3}, []uint8{255, 0, 51}), colored},
		{"ply 16-bit colours", "", join(le, "ply\nformat binary_little_endian 1.0\nelement vertex 1\n"+xyz+"property ushort r\nproperty ushort g\nproperty ushort b\nend_header\n",
			[]float32{1, 2, 3}, []uint16{65535, 0, 13107}), colored},
		{"ply header with carriage returns", "", []byte("ply\r\nformat ascii 1.0\r\nelement vertex 1\r\n" + strings.ReplaceAll(xyz, "\n", "\r\n") + "end_header\r\n1 2 3\r\n"), plain},
		{"pcd packed float colour", "", join(le, "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 1\nHEIGHT 1\nDATA binary\n", []float32{1, 2, 3}, uint32(0xff0033)), colored},
		{"pcd ascii float colour", "", []byte("VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2 3 2.34181229865094e-38\n"), colored},
		{"pcd ascii, a descriptor in front", "", []byte("FIELDS d x y z\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 3 1 1 1\nPOINTS 1\nDATA ascii\n7 8 9 1 2 3\n"), plain},
		{"pcd doubles", "", join(le, "FIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nPOINTS 1\nDATA binary\n", []float64{1, 2, 3}), plain},
		{"off with counts on the first line", "", []byte("OFF1 0 0\n1 2 3\n"), plain},
		{"off normals and float colour", "", []byte("CNOFF\n1 0 0\n1 2 3 0 0 1 1.0 0 0.2 1\n"), pointfile.Point{XYZ: plain.XYZ, Color: colored.Color, Normal: [3]float32{0, 0, 1}}},
		{"obj", "obj", []byte("# a\nmtllib b\nv 1 2 3 1.0 0 0.2\nvn 0 0 1\nf 1 1 1\n"), colored},
		{"xyz", "", []byte("1 2 3"), plain},
		{"csv with names", "", []byte("\"Z\",\"X\",\"Y\",\"time\"\n3,1,2,9\n"), plain},
		{"CloudCompare names", "", []byte("//X Y Z R G B\n1 2 3 255 0 51\n"), colored},
		{"tabs", "", []byte("1\t2\t3\t255\t0\t51\n"), colored},
		{"pts", "", []byte("1\n1 2 3 -700 255 0 51\n"), pointfile.Point{XYZ: plain.XYZ, Color: colored.Color, Intensity: -700}},
		{"byte order mark", "", []byte("\xef\xbb\xbf1 2 3\n"), plain},
		{"json", "", []byte(" [[1, 2 ,3 , 255, 0,51 ]\n] \n"), colored},
		{"las 1.0", "", las(0, 0, 20), lasPoint},
		{"las 1.2 format 2", "", las(2, 2, 26), lasColor},
		{"las 1.3 format 5", "", las(3, 5, 63), lasColor},
		{"las 1.4 format 7, extra bytes", "", las(4, 7, 40), lasColor},
		{"las 1.4 format 10", "", las(4, 10, 67), lasColor},
		{"npy big endian", "", npy("{'descr': '>f8', 'fortran_order': False, 'shape': (1, 3)}", join(be, "", []float64{1, 2, 3})), plain},
		{"npy half", "", npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3)}", join(le, "", []uint16{0x3c00, 0x4000, 0x4200})), plain},
		{"npy integers", "", npy("{'descr': '|i1', 'fortran_order': False, 'shape': (1, 3), }", []byte{1, 2, 3}), plain},
		{"npy columns", "", npy("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 4), }", join(le, "", []int32{1, 2, 3, 0})), plain},
		{"npy fields", "", npy("{'descr': [('t', '<f8'), ('z', '<f4'), ('y', '<i2'), ('x', '<u1')], 'fortran_order': False, 'shape': (1,), }",
			join(le, "", float64(9), float32(3), int16(2), uint8(1))), plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, got, err := all(c.data, c.format, 10)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || got[0] != c.want {
				t.Fatalf("%s: %v, want %v", h.Format, got, c.want)
			}
			if c.want.Color != [3]float32{} && !h.HasColor || c.want.Normal != [3]float32{} && !h.HasNormals || c.want.Intensity != 0 && !h.HasIntensity {
				t.Errorf("header %+v misses an attribute", h)
			}
		})
	}
}

// npy puts a version 1 header in front of data.
func npy(dict string, data []byte) []byte {
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(dict)+1), byte((len(dict)+1)>>8))
	return append(append(append(b, dict...), '\n'), data...)
}

func TestRefusals(t *testing.T) {
	xyz := "property float x\nproperty float y\nproperty float z\n"
	for _, c := range []struct {
		name, format, data string
		want               media.Code
	}{
		{"nothing", "", "", media.Empty},
		{"prose", "", "once upon a time\n", media.Unsupported},
		{"ply count of elements in front", "", "ply\nformat ascii 1.0\nelement a 9000000000000000000\nproperty int b\nelement vertex 1\n" + xyz + "end_header\n1 2 3\n", media.Truncated},
		{"ply elements without properties", "", "ply\nformat ascii 1.0\nelement a 9000000000000000000\nelement vertex 1\n" + xyz + "end_header\n1 2 3\n", media.Malformed},
		{"ply no end", "", "ply\nformat ascii 1.0\n", media.Truncated},
		{"ply row too long", "", "ply\nformat ascii 1.0\nelement vertex 1\n" + xyz + "end_header\n1 2 3 4\n", media.Malformed},
		{"ply list longer than its row", "", "ply\nformat ascii 1.0\nelement vertex 1\nproperty list int int q\n" + xyz + "end_header\n1000000000 1 2 3\n", media.Malformed},
		{"ply too few", "", "ply\nformat ascii 1.0\nelement vertex 2\n" + xyz + "end_header\n100 200 300\n", media.Truncated},
		{"pcd lzf reference before the start", "", "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA binary_compressed\n\x03\x00\x00\x00\x0c\x00\x00\x00\xe0\x03\x00", media.Malformed},
		{"laz", "", "LASF" + string(las(2, 0x80|2, 26)[4:]), media.Unsupported},
		{"las 2.0", "", "LASF" + strings.Repeat("\x00", 20) + "\x02\x00" + strings.Repeat("\x00", 400), media.Unsupported},
		{"npz", "npz", "PK\x03\x04aaaa", media.Unsupported},
		{"glb", "", "glTF\x02\x00\x00\x00", media.Unsupported},
		{"off binary", "", "OFF BINARY\n", media.Unsupported},
		{"a line without end", "", "1 2 3 " + strings.Repeat("4 ", 1<<17), media.Malformed},
		{"json too deep", "", strings.Repeat("[", 1<<17), media.Malformed},
		{"json of another kind", "json", `{"a": 1}`, media.Malformed},
		{"json rows", "", "[[1,2,3],[4,5]]", media.Malformed},
		{"json cut off", "", "[[1,2,3],[4,5,6]", media.Truncated},
		{"pts count", "", "1000000\n1 2 3 4 5 6 7\n", media.Truncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got, err := all([]byte(c.data), c.format, 10)
			if media.CodeOf(err) != c.want {
				t.Errorf("%d points, error %v, want %s", len(got), err, c.want)
			}
		})
	}
}

// TestBlocks reads the same file in blocks of several sizes.
func TestBlocks(t *testing.T) {
	var text, bin bytes.Buffer
	text.WriteString("ply\nformat ascii 1.0\nelement vertex 3000\nproperty double x\nproperty double y\nproperty double z\nend_header\n")
	bin.WriteString("ply\nformat binary_little_endian 1.0\nelement vertex 3000\nproperty double x\nproperty double y\nproperty double z\nend_header\n")
	for i := range 3000 {
		v := [3]float64{float64(i) / 8, math.Sqrt(float64(i)), -float64(i) * 1e-9}
		binary.Write(&bin, binary.LittleEndian, v)
		text.WriteString(strings.Trim(strings.Join(strings.Fields(sprint(v)), " "), "[]") + "\n")
	}
	_, want, err := all(bin.Bytes(), "", 3000)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{text.Bytes(), bin.Bytes()} {
		for _, block := range []int{1, 7, 1000, 5000} {
			_, got, err := all(data, "", block)
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("block %d: point %d is %v, want %v", block, i, got[i], want[i])
				}
			}
		}
	}
}
