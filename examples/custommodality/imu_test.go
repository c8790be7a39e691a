package custommodality_test

import (
	"testing"

	"github.com/mmserve/mmserve/examples/custommodality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/modalitytest"
	"github.com/mmserve/mmserve/tensor"
)

const walk = "t,ax,ay,az,gx,gy,gz\n0,0.5,0,9.8,0,0,0\n0.01,0.25,0,9.75,0,0,-1\n"

func TestConformance(t *testing.T) {
	a, err := custommodality.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	modalitytest.Run(t, a, modalitytest.Sample{Name: "walk.imu", Data: []byte(walk)})
}

func TestRows(t *testing.T) {
	a, err := custommodality.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	array, err := a.Adapt(t.Context(), media.Bytes("walk.imu", []byte(walk)))
	if err != nil {
		t.Fatal(err)
	}
	m, c := array.Dims()
	if m != 2 || c != 6+65 {
		t.Fatalf("%d×%d, want 2×71", m, c)
	}
	x := tensor.New(m, c)
	if err := array.Read(x, 0, m); err != nil {
		t.Fatal(err)
	}
	if r := x.Row(1); r[0] != 0.25 || r[2] != 9.75 || r[5] != -1 || r[6] != 1 {
		t.Errorf("row 1 begins %v", r[:7])
	}
}
