// A certified OpenID provider for the tests of OAuth 2.0 connections: code with PKCE, refresh tokens that rotate and whose
// reuse revokes the grant. Whoever asks is logged in as `ann`, and consents to everything.
//
// Usage: node provider.mjs PORT. `GET /tests/renewals` says how many refresh tokens were used so far.
import http from 'node:http';
import Provider from 'oidc-provider';

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
let renewals = 0;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'ap-tests',
    client_secret: 'canary-secret-of-the-certified-client',
    redirect_uris: ['https://host.example/callback'],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  cookies: { keys: ['only for tests'] },
  features: { devInteractions: { enabled: false } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/tests/interaction/${interaction.uid}` },
  issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope('openid');
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 86400, IdToken: 3600, Interaction: 600, RefreshToken: 86400, Session: 3600 },
});
provider.on('grant.success', (ctx) => { if (ctx.oidc.params.grant_type === 'refresh_token') renewals += 1; });

const handle = provider.callback();
http.createServer(async (request, response) => {
  try {
    if (request.url === '/tests/renewals') {
      response.end(String(renewals));
    } else if (request.url.startsWith('/tests/interaction/')) {
      await provider.interactionFinished(request, response, { login: { accountId: 'ann' } });
    } else {
      handle(request, response);
    }
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
}).listen(port, '127.0.0.1', () => console.log(`ready at ${issuer}`));
