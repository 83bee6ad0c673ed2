// oidc-provider, a certified OpenID Connect provider, for tests: node provider.mjs DIR. DIR/provider.json says who asks,
// DIR/people.json, read anew for each login, who can log in. TLS is spoken by who stands before it.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const dir = process.argv[2];
const read = (name) => JSON.parse(readFileSync(`${dir}/${name}.json`, 'utf8'));
const person = (name) => read('people').find((p) => p.name === name);
const conf = read('provider');

if (!existsSync(`${dir}/jwks.json`)) { // keys outlive a restart
  const jwk = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  writeFileSync(`${dir}/jwks.json`, JSON.stringify({ keys: [{ ...jwk, use: 'sig', alg: 'RS256', kid: randomBytes(8).toString('hex') }] }), { mode: 0o600 });
}

const provider = new Provider(conf.issuer, {
  clients: [{ client_id: conf.client_id, client_secret: conf.client_secret, redirect_uris: conf.redirect_uris ?? [], response_types: ['code'], grant_types: ['authorization_code'] }],
  jwks: read('jwks'),
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'], groups: ['groups'] },
  conformIdTokenClaims: !conf.claims_in_id_token,
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false } },
  ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 3600, IdToken: 600, Interaction: 600, Session: 3600 },
  findAccount: async (_, id) => {
    const p = person(id.replace(/^id-/, ''));
    return p && { accountId: id, claims: async () => ({ sub: id, email: p.email, email_verified: true, name: p.name, preferred_username: p.name, groups: p.groups ?? [] }) };
  },
  // Whoever logs in has consented.
  loadExistingGrant: async (ctx) => {
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope([...ctx.oidc.requestParamScopes].join(' '));
    await grant.save();
    return grant;
  },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  renderError: (ctx, out) => {
    ctx.type = 'html';
    ctx.body = page('Error', `<p id="error">${escape(`${out.error}: ${out.error_description ?? ''}`)}</p>`);
  },
});
provider.proxy = true;

const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title><main><h1>${title}</h1>${body}</main></html>`;
const form = (error) => page('Sign in', `${error}<form method="post"><label>User <input id="user" name="user" autofocus></label>
<label>Password <input id="password" name="password" type="password"></label><button id="login">Sign in</button><button id="cancel" name="cancel" value="1">Cancel</button></form>`);

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  await provider.interactionDetails(ctx.req, ctx.res); // refuses whom nobody sent
  ctx.type = 'html';
  ctx.body = form('');
  if (ctx.method !== 'POST') return;
  let body = '';
  for await (const chunk of ctx.req) body += chunk;
  const posted = new URLSearchParams(body);
  const p = person(posted.get('user'));
  ctx.respond = false;
  if (posted.get('cancel')) {
    await provider.interactionFinished(ctx.req, ctx.res, { error: 'access_denied', error_description: 'End-User aborted interaction' }, { mergeWithLastSubmission: false });
  } else if (p && p.password === posted.get('password')) {
    await provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: `id-${p.name}` } }, { mergeWithLastSubmission: false });
  } else {
    ctx.respond = true;
    ctx.body = form('<p id="error">Wrong user or password.</p>');
  }
});

provider.on('server_error', (_, err) => console.error(err));
provider.listen(conf.port, '127.0.0.1', () => console.log(`oidc-provider: ${conf.issuer}`));
