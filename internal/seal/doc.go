// Package seal keeps secrets out of the replicated log: it reads the cluster
// secret that replicas share beforehand, derives keys from it, and seals values
// so that log, snapshot, backup and wire hold ciphertext only.
//
// Values are sealed under a random data key; the data key is wrapped by a key
// derived from the cluster secret (the key-encryption key). So a rotation of the
// cluster secret rewraps one record instead of every sealed one, and a sealed
// value names the key that opens it, which lets an operator with the wrong
// secret file be told which line is missing.
//
// An attacker who holds the store but not the secret should learn nothing, and
// should not be able to move a sealed value to another record: the record's key
// is authenticated with the value (additional data of AES-256-GCM). Whoever
// holds both the secret and a backup holds every key; there is no defence here
// against that, only the threat model's word for it.
package seal
