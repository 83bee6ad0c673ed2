// Package auth holds the rules of identity over the replicated store: who the
// users are, how they prove it, what a session is worth, and what a request may
// do. The store is dumb and transactional; every rule here is a transaction
// whose checks make it hold on all replicas at once: an invite is used once, a
// fifth failure locks, a deleted user's sessions go with the user.
//
// One small type per domain (Users, Roles, Invites, AuthPreferences, Factors,
// Sessions, Login, Connectors, SSO, SSOTests, Consoles, Authorities, Tokens, Agents,
// KubeClusters, Authorizer) shares the database; Service only gathers them. All time
// is the store's (View.Now), so that a replica with a wrong clock does not judge by it
// alone.
//
// What an attacker might try, and what stands against it:
//
//   - Guess passwords: rate limits per network, per wide network and in all come
//     before any work; five failures lock (user, network) for 20 minutes, counted
//     in the store and so on all replicas, and asked for again after every wait,
//     so that guesses made at once get no more, and under the lock the right one
//     looks like the others. The user as a whole is slowed, one login after the
//     other, but never locked, because otherwise anyone could lock out the last
//     administrator.
//   - Keep the owner out by guessing: networks from which the user has logged in
//     lately have a turn and a share of the limit of their own; the socket has no
//     limit.
//   - Fill log and state: refusals that cost nothing are told once a minute.
//   - Find out who exists: an unknown user costs the same key derivation and the
//     same kind of write, and gets the same words.
//   - Eat the machine: key derivation (19 MiB each) runs behind a semaphore with a
//     bounded queue, and lengths are checked before it.
//   - Find the right password among guesses, where a second factor is asked for:
//     that answer writes nothing, so it asks every replica's count for the lock
//     first. A right password alone neither counts as a failure nor forgets any.
//   - Guess a code: a wrong one is a failure like a wrong password, for the pair and
//     once more for the user from all networks, which only who has the password
//     can bring up. After ten, codes rest, twice as long after each further one.
//   - Use a code or a passkey's answer again, on another replica or at once: the
//     last step of a code is stored, a state is spent, both by a check of the
//     transaction that makes the session.
//   - Pass off what is half done: states are sealed, with their purpose, the life of
//     the user and what they are bound to (password, session or link) inside.
//   - Answer for a passkey from elsewhere: relying party, origin and challenge are
//     compared; a counter that goes back locks the passkey.
//   - Become somebody by resetting them: the link goes to those only who could give
//     all that the user has. What a reset or a deletion takes it takes in one
//     transaction, with what is added meanwhile.
//   - Weaken the policy by an older replica: a preference with what a version does
//     not know shuts its local logins; certificates go on.
//   - Stay for good with a session that was left open, or stolen: second factors are
//     changed, and logins of tsh approved, within ten minutes of a login.
//   - Use an invite twice, late, or after its user was deleted and made again:
//     transaction checks, a tombstone that says why not, and the creation time of
//     the user that sessions and invites carry. Keep a session over a change of
//     the password: it carries the revision of the one that made it.
//   - Read the store or a backup: private keys and password hashes are sealed,
//     tokens, cookies and codes are stored as hashes.
//   - Pick up a login of tsh that a browser approves, or have one approved that they
//     began themselves: see Consoles. Use a cookie as a certificate, or the other
//     way round: Authorizer.Certificate and Cookie tell the kinds apart.
//   - Become somebody by having their name, e-mail address or number elsewhere: who an
//     SSO user is says the connector with the subject alone, and a name that another has
//     is refused (ssoUserTxn). Outlive it: their sessions hang on the lives of the user's
//     and the connector's record. Pass an attribute off as a trait that an administrator
//     gave: see traits.
//   - Have somebody else finish a login at an identity provider, finish it twice, or fill
//     the store with logins begun: the flow is sealed in the browser that began it, and
//     spent, with what else is good once, by the transaction that makes the session.
//   - Have a headless login approved that they began: the person types what the own
//     terminal shows, and five wrong codes end it.
//   - Widen rights by names: names from documents and traits reach Kubernetes only
//     if they pass api.ValidateGroup; system:… is no user's name; a role with a
//     field that this version does not know denies, rather than being half obeyed.
//     Who may write users gives only roles and traits of their own (Users).
//   - Have a connector written that believes them: who writes one needs the right to
//     change roles beside the right to write connectors. One that can't be safe (http,
//     no certificate of the identity provider, no secret) is no document, and one with
//     what this version does not know logs nobody in.
//   - Be told a connector's secret: it is sealed apart from the document, and shown to
//     those alone who may change it and ask. A document that leaves it out keeps it only
//     while it would go to the same identity provider.
//   - Take the name of a GitHub organization that was given up: organizations are known
//     by their ids, from the time of saving or the first login on (Map).
//   - Guess a token by which agents join, or learn whether there is one: the token is
//     judged before all else, with one answer for all that are none; guesses are limited
//     as logins are, and take nothing from those who hold one. The store has a hash, and
//     the id by which people call a token opens nothing.
//   - Fill the store by a token that was found: joins by one token are limited, and so
//     are agents and clusters in number.
//   - Use one use twice: it is counted in the transaction that makes the agent.
//   - Pass for a service account: its token must be for this cluster's name, signed
//     (never by a symmetric key) or reviewed, and end within the hour.
//   - Use an agent's certificate that was stolen: a renewal takes the old one out of
//     use once the new one is used, and either of two that both hold the identity locks
//     it when shown. A replica that is behind asks the leader before it does. What is later
//     than the store knows tells of a store that was put back, and counts (certForgotten).
//   - Serve another's cluster as an agent: the record of the agent names its clusters,
//     the record of a cluster the token whose agents own the name (see agentRecord.mayServe).
//     A cluster of the replicas is nobody else's.
//   - Show people what hurts their terminal, as an agent: what agents say of themselves
//     is made one line of printable text.
//   - List the clusters: one that the roles' labels shut looks as if it were none.
package auth
