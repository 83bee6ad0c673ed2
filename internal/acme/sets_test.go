package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/sallyport-dev/sallyport/fsm"
)

// siteFiles are a certificate's, in the order in which CertMagic stores them.
var siteFiles = []string{
	"certificates/authority/tele.example.com/tele.example.com.key",
	"certificates/authority/tele.example.com/tele.example.com.crt",
	"certificates/authority/tele.example.com/tele.example.com.json",
}

func contents(t testing.TB, s *Storage) string {
	t.Helper()
	var all []string
	for _, file := range siteFiles {
		all = append(all, load(t, s, file))
	}
	return strings.Join(all, " ")
}

func TestFilesOfACertificateAreSeenTogether(t *testing.T) {
	a, b, db, _ := twoReplicas(t)
	lock(t, a, certLock)
	for _, file := range siteFiles {
		missing(t, b, file)
		store(t, a, file, "1")
	}
	revisions := map[uint64]bool{}
	for r := range db.View().List(filesPrefix) {
		revisions[r.Revision] = true
	}
	if got := contents(t, b); got != "1 1 1" || len(revisions) != 1 {
		t.Errorf("%q, written at %d revisions", got, len(revisions))
	}
	unlock(t, a, certLock)
}

func TestFilesOfACertificateAreStoredOneByOneWithoutItsLock(t *testing.T) {
	s := newTestStorage(t, newTestDB(t))
	for _, file := range siteFiles {
		store(t, s, file, "1")
		if got := load(t, s, file); got != "1" {
			t.Errorf("%s: %q", file, got)
		}
	}
}

// What waits for a third file is no whole certificate.
func TestUnlockForgetsHalfACertificate(t *testing.T) {
	a, b, _, _ := twoReplicas(t)
	for _, file := range siteFiles {
		store(t, a, file, "old")
	}
	lock(t, a, certLock)
	store(t, a, siteFiles[0], "new")
	store(t, a, siteFiles[1], "new")
	unlock(t, a, certLock)
	if got := contents(t, b); got != "old old old" {
		t.Errorf("got %q", got)
	}
}

// CertMagic takes back what it stored with the context that has ended already.
func TestSaveThatIsCancelledKeepsTheOldCertificate(t *testing.T) {
	for at := range siteFiles {
		t.Run(siteFiles[at], func(t *testing.T) {
			for range 20 {
				a, b, db, _ := twoReplicas(t)
				for _, file := range siteFiles {
					store(t, a, file, "old")
				}
				lock(t, a, certLock)
				ctx, cancel := context.WithCancel(t.Context())
				var err error
				for i, file := range siteFiles {
					if i == at {
						db.decide(func(fsm.Txn) fate { return fails })
						cancel()
					}
					if err = a.Store(ctx, file, []byte("new")); err != nil {
						for ; i > 0; i-- {
							_ = a.Delete(ctx, siteFiles[i-1])
						}
						break
					}
				}
				cancel()
				db.decide(nil)
				unlock(t, a, certLock)
				if got := contents(t, b); err == nil || got != "old old old" {
					t.Fatalf("got %q (%v)", got, err)
				}
			}
		})
	}
}

// Reliability row 25. What CertMagic does after a Store that failed is to delete what
// it has stored before.
func TestRenewalThatFailsHalfwayKeepsTheOldCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		fate fate
		fail int // the Store that fails
	}{
		"no leader for the key":                {fails, 0},
		"no leader for the metadata":           {fails, 2},
		"no answer":                            {vanishes, 2},
		"the lock is lost before the metadata": {commits, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, db, _ := twoReplicas(t)
				for _, file := range siteFiles {
					store(t, a, file, "old")
				}
				lock(t, a, certLock)
				var err error
				for i, file := range siteFiles {
					if i == c.fail && c.fate == commits {
						stopRenewing(a, certLock)
						wait(time.Minute)
					} else if i == c.fail {
						db.decide(func(fsm.Txn) fate { return c.fate })
					}
					if err = a.Store(t.Context(), file, []byte("new")); err == nil {
						continue
					}
					for ; i > 0; i-- {
						_ = a.Delete(t.Context(), siteFiles[i-1])
					}
					break
				}
				db.decide(nil)
				if err == nil {
					t.Error("all is well")
				} else if c.fate == commits && !errors.Is(err, ErrLockLost) {
					t.Errorf("got %v", err)
				}
				unlock(t, a, certLock)
				if got := contents(t, b); got != "old old old" {
					t.Errorf("stored: %s", got)
				}
			})
		})
	}
}

// authority signs what it is asked to sign.
type authority struct {
	orders atomic.Int32
	before func() // before it answers
}

func (*authority) IssuerKey() string { return "authority" }

func (a *authority) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	a.orders.Add(1)
	if a.before != nil {
		a.before()
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(a.orders.Load())), DNSNames: csr.DNSNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, csr.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// config is CertMagic itself, over a storage.
func config(t testing.TB, s *Storage, a *authority) *certmagic.Config {
	t.Helper()
	var cfg *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		Logger:             zap.NewNop(),
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return cfg, nil },
		RenewCheckInterval: 24 * time.Hour, OCSPCheckInterval: 24 * time.Hour,
	})
	t.Cleanup(cache.Stop)
	cfg = certmagic.New(cache, certmagic.Config{
		Storage: s, Issuers: []certmagic.Issuer{a}, Logger: zap.NewNop(),
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	return cfg
}

// pair says whether key and certificate of the store belong together, and which it is.
func pair(t testing.TB, s *Storage) int64 {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(load(t, s, siteFiles[1])), []byte(load(t, s, siteFiles[0])))
	if err != nil {
		t.Fatalf("stored: %v", err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

// Reliability row 22: one order, whichever replica is asked first.
func TestCertMagicOnThreeReplicasOrdersOnce(t *testing.T) {
	db := newTestDB(t)
	first := newTestStorage(t, db)
	storages := []*Storage{first, newTestStorage(t, db.replica(t), first), newTestStorage(t, db.replica(t), first)}
	a := &authority{}
	var wg sync.WaitGroup
	for i := range 12 {
		cfg := config(t, storages[i%3], a)
		wg.Go(func() {
			if err := cfg.ObtainCertSync(t.Context(), "tele.example.com"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a.orders.Load() != 1 {
		t.Errorf("%d orders", a.orders.Load())
	}
	if err := config(t, storages[2], a).RenewCertSync(t.Context(), "tele.example.com", true); err != nil {
		t.Fatal(err)
	}
	if got := pair(t, storages[1]); got != 2 {
		t.Errorf("after the renewal: number %d", got)
	}
	for _, prefix := range []string{locksPrefix, filesPrefix + "rw_test_"} {
		for r := range db.View().List(prefix) {
			t.Errorf("left: %s", r.Key)
		}
	}
}

// Reliability row 25: a leader change at any moment of a renewal.
func TestCertMagicRenewingDuringALeaderChangeStoresAllOrNothing(t *testing.T) {
	for _, f := range []fate{fails, vanishes, commitsUnseen, commitsLate} {
		for n := range 8 {
			t.Run(fmt.Sprint(f, " at write ", n), func(t *testing.T) {
				a, b, db, _ := twoReplicas(t)
				ca := &authority{}
				cfg := config(t, a, ca)
				if err := cfg.ObtainCertSync(t.Context(), "tele.example.com"); err != nil {
					t.Fatal(err)
				}
				var count atomic.Int32
				db.decide(func(fsm.Txn) fate {
					if int(count.Add(1)) == n+1 {
						return f
					}
					return commits
				})
				err := cfg.RenewCertSync(t.Context(), "tele.example.com", true)
				db.decide(nil)
				store(t, a, "x", "what comes late comes now")
				got := pair(t, b)
				if err == nil && got != 2 {
					t.Errorf("renewed, and number %d is stored", got)
				}
				if f == fails && err == nil && n < 4 && n != 1 {
					t.Errorf("nobody noticed write %d", n)
				}
				if err != nil && f != fails {
					t.Errorf("%v, though it could be tried again", err)
				}
			})
		}
	}
}

// Reliability row 22, by CertMagic itself: the first is paused while the authority works.
func TestCertMagicThatLostItsLockStoresNothing(t *testing.T) {
	db := newTestDB(t)
	a := newTestStorage(t, db)
	a.lease = 300 * time.Millisecond
	b := newTestStorage(t, db.replica(t), a)
	other := &authority{}
	other.orders.Store(10)
	slow := &authority{before: func() {
		stopRenewing(a, certLock)
		if err := config(t, b, other).ObtainCertSync(t.Context(), "tele.example.com"); err != nil {
			t.Error(err)
		}
	}}
	err := config(t, a, slow).ObtainCertSync(t.Context(), "tele.example.com")
	if err == nil || !strings.Contains(err.Error(), ErrLockLost.Error()) {
		t.Errorf("got %v", err)
	}
	if got := pair(t, a); got != 11 {
		t.Errorf("number %d is stored", got)
	}
}
