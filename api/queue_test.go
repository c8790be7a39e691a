package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The queue holds what the measured rate drains in Wait, whatever was assumed at first.
func TestQueueHoldsWhatItDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, pass = 1e9, 100 * time.Millisecond // 10 a second by one slot
		q := &Queue{Slots: 1, Wait: time.Second}
		turn := func() error {
			leave, err := q.Enter(t.Context(), cost)
			if err != nil {
				return err
			}
			time.Sleep(pass)
			leave()
			return nil
		}
		for range 50 {
			if err := turn(); err != nil {
				t.Fatal(err)
			}
		}
		if got := q.Load().Rate; got < 9.9e9 || got > 10.1e9 {
			t.Errorf("rate %g, want 1e10", got)
		}
		var admitted, refused int
		done := make(chan error)
		begin := time.Now()
		for range 100 {
			go func() { done <- turn() }()
		}
		for range 100 {
			var full *Saturated
			switch err := <-done; {
			case err == nil:
				admitted++
			case errors.As(err, &full):
				refused++
				if full.RetryAfter < time.Second {
					t.Errorf("retry after %s", full.RetryAfter)
				}
			default:
				t.Error(err)
			}
		}
		if admitted < 9 || admitted > 11 || admitted+refused != 100 {
			t.Errorf("%d admitted, %d refused of 100; one second holds 10", admitted, refused)
		}
		if took := time.Since(begin); took > 1200*time.Millisecond {
			t.Errorf("the last of the admitted waited %s", took)
		}
		if l := q.Load(); l.Admitted != 0 || l.Running != 0 || l.Waiting != 0 {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// A queue that stalls holds less and less, though its last measured rate was high.
func TestQueueStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, pass = 1e9, 10 * time.Millisecond
		q := &Queue{Slots: 1, Wait: time.Second} // holds 100
		gone, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		for i := range 40 {
			p, err := q.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer func() { done <- struct{}{} }()
				leave, err := p.Enter(gone, cost)
				if err != nil {
					return
				}
				defer leave()
				if i >= 20 {
					<-gone.Done() // stuck
				}
				time.Sleep(pass)
			}()
			synctest.Wait()
		}
		time.Sleep(20*pass + pass/2)
		p, err := q.Reserve()
		if err != nil {
			t.Errorf("room for eighty more: %v", err)
		} else {
			p.Close()
		}
		time.Sleep(10 * time.Second)
		var full *Saturated
		if _, err := q.Reserve(); !errors.As(err, &full) {
			t.Errorf("nothing has moved for ten seconds: %v", err)
		} else if full.RetryAfter < 10*time.Second {
			t.Errorf("retry after %s", full.RetryAfter)
		}
		cancel()
		for range 40 {
			<-done
		}
	})
}

// Who leaves gives the place back, and turns are first come, first served.
func TestQueueOrderAndDeparture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Slots: 1, Capacity: 1e12}
		leave, err := q.Enter(t.Context(), 1e9)
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		order := make(chan int, 3)
		for i := range 3 {
			ctx := t.Context()
			if i == 1 {
				ctx = gone
			}
			go func() {
				leave, err := q.Enter(ctx, 1e9)
				if err == nil {
					order <- i
					leave()
				}
			}()
			synctest.Wait() // each stands in line before the next comes
		}
		cancel()
		synctest.Wait()
		if l := q.Load(); l.Waiting != 2 || l.Admitted != 3e9 {
			t.Errorf("after a departure: %+v", l)
		}
		leave()
		leave() // twice does no harm
		synctest.Wait()
		if a, b := <-order, <-order; a != 0 || b != 2 {
			t.Errorf("order %d, %d", a, b)
		}
		if l := q.Load(); l.Admitted != 0 || l.Running != 0 {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// Work larger than the whole capacity has its turn when nothing else runs; further work of an
// admitted request is never refused.
func TestQueueLargeAndFurtherWork(t *testing.T) {
	q := &Queue{Slots: 1, Capacity: 1e9}
	leave, err := q.Enter(t.Context(), 1e12)
	if err != nil {
		t.Fatal(err)
	}
	var full *Saturated
	if _, err := q.Enter(t.Context(), 1); !errors.As(err, &full) {
		t.Errorf("%v", err)
	}
	if _, err := q.Reserve(); !errors.As(err, &full) {
		t.Errorf("reserve: %v", err)
	}
	leave()
	p, err := q.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	if leave, err = p.Enter(t.Context(), 1e12); err != nil {
		t.Fatal(err)
	}
	leave()
	other, err := q.Enter(t.Context(), 1e12)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Enter(over, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	other()
}

// A place holds the usual cost from before the body is read: whoever has one gets in, though
// costs differ from the usual, and nobody else takes the room. A body that dawdles loses it.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const usual = 1e9
		q := &Queue{Slots: 1, Capacity: 10 * usual}
		leave, err := q.Enter(t.Context(), usual)
		if err != nil {
			t.Fatal(err)
		}
		var full *Saturated
		places := make([]*Place, 9)
		for i := range places {
			if places[i], err = q.Reserve(); err != nil {
				t.Fatalf("place %d: %v", i, err)
			}
		}
		if _, err := q.Reserve(); !errors.As(err, &full) {
			t.Fatalf("the queue is held in full, and a place more: %v", err)
		}
		places[8].Close() // refused for another reason
		places[8].Close()
		if places[8], err = q.Reserve(); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for i, p := range places[:4] {
			go func() {
				_, err := p.Enter(gone, usual*(0.5+0.25*float64(i))) // 0.5 to 1.25 of the usual
				ended <- err
			}()
		}
		synctest.Wait()
		if l := q.Load(); l.Waiting != 4 || l.Admitted != usual*(1+3.5+5) {
			t.Errorf("%+v", l)
		}
		if _, err := places[4].Enter(gone, 100*usual); !errors.As(err, &full) {
			t.Errorf("work of a hundred times the usual cost got in with a place: %v", err)
		}
		time.Sleep(placeHeld + 1)
		if l := q.Load(); l.Admitted != usual*(1+3.5) {
			t.Errorf("places are still whole: %+v", l)
		}
		for range 5 { // the room of four that dawdle and one refused
			p, err := q.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := p.Enter(gone, usual)
				ended <- err
			}()
		}
		synctest.Wait()
		if _, err := places[5].Enter(gone, 4*usual); !errors.As(err, &full) {
			t.Errorf("a late body got in over the capacity: %v", err)
		}
		cancel()
		for range 9 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		for _, p := range places {
			p.Close()
		}
		leave()
		if l := q.Load(); l.Admitted != 0 || l.Waiting != 0 || l.Running != 0 {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// What the queue says of work beforehand is what happens to it.
func TestQueueEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, pass = 1e9, 100 * time.Millisecond
		q := &Queue{Slots: 1, Wait: time.Second}
		turn := func() error {
			leave, err := q.Enter(t.Context(), cost)
			if err == nil {
				time.Sleep(pass)
				leave()
			}
			return err
		}
		for range 50 {
			if err := turn(); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error)
		taken := 0
		for range 20 {
			synctest.Wait()
			before := time.Now()
			until, admitted := q.estimate(cost)
			go func() {
				err := turn()
				if took := time.Since(before); err == nil && (until < took-pass || until > took+pass) {
					t.Errorf("took %s, %s was said", took, until)
				}
				done <- err
			}()
			synctest.Wait()
			l := q.Load()
			if came := l.Running+l.Waiting > taken; came != admitted {
				t.Errorf("behind %d: admitted %t, %t was said", taken, came, admitted)
			}
			taken = l.Running + l.Waiting
			if !admitted {
				<-done
			}
		}
		for range taken {
			<-done
		}
		if taken < 9 || taken > 11 {
			t.Errorf("%d were admitted", taken)
		}
	})
}

// What an idle queue measured long ago it does not forget, and time in which nothing was asked of it is no stall.
// The canary, which costs nothing, is often the last to have its turn.
func TestQueueIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, pass = 1e9, 100 * time.Millisecond // 10 a second by one slot
		q := &Queue{Slots: 1, Wait: time.Second}
		done := make(chan error)
		turn := func(flops float64) {
			leave, err := q.Enter(t.Context(), flops)
			if err == nil {
				time.Sleep(pass)
				leave()
			}
			done <- err
		}
		burst := func() {
			for range 4 {
				go turn(cost)
				synctest.Wait()
			}
			go turn(0)
			for range 5 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		for range 5 {
			burst()
		}
		time.Sleep(time.Hour)
		if until, admitted := q.estimate(cost); !admitted || until > 2*pass {
			t.Errorf("after an idle hour: %s, admitted: %t; want %s", until, admitted, pass)
		}
		for range 5 {
			burst()
		}
		if got := q.Load().Rate; got < 8e9 || got > 12e9 {
			t.Errorf("rate %g, want 1e10", got)
		}
	})
}

// Work that failed did not do what it was admitted for: the measured rate learns nothing from it.
func TestQueueFailedWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{Slots: 1, Wait: time.Second}
		for range 50 {
			p, err := q.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			leave, err := p.Enter(t.Context(), 1e9)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			leave()
			if leave, err = p.Enter(t.Context(), 1e9); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Microsecond)
			p.Fail()
			leave()
			p.Close()
		}
		if got := q.Load().Rate; got < 9.9e9 || got > 10.1e9 {
			t.Errorf("rate %g, want 1e10", got)
		}
	})
}
