package main

import (
	"net/http/httptest"
	"testing"

	"github.com/mmserve/mmserve/client"
)

const walk = "t,ax,ay,az,gx,gy,gz\n0,0,0,9.8,0,0,0\n0.01,0.1,0,9.7,0,0,0\n0.02,0.2,0,9.8,0,0,-1\n"

func TestServer(t *testing.T) {
	hs := httptest.NewServer(server("../../testdata/native/sensor", true).Handler())
	defer hs.Close()
	c := client.Client{URL: hs.URL}
	doc, err := c.Predict(t.Context(), client.Request{Inputs: []client.Item{client.Media("imu", []byte(walk))}})
	if err != nil {
		t.Fatal(err)
	}
	r := doc.Data[0]
	if r.Error != nil || len(r.Prediction.Heads) != 1 || r.Prediction.Heads[0].Task != "activity" {
		t.Errorf("%+v: %+v", r, r.Prediction)
	}
}
