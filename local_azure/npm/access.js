// Loaded into Azurite's process before Azurite (node --require): what Azure checks, answers and signs, and Azurite 3.36
// does not. The environment has the folder of its Blob Storage (LOCAL_AZURE_BLOB), the secret that signs tokens
// (LOCAL_AZURE_TOKEN_SECRET, in hexadecimal; empty: no tokens) and the file with who may use the account
// (LOCAL_AZURE_ACCESS, see local_azure/batch/state/access.py; empty: whoever has the key).
"use strict";

const { createHmac, randomBytes, timingSafeEqual } = require("crypto");
const { readFileSync } = require("fs");
const path = require("path");

const load = (module) => require(path.join(process.env.LOCAL_AZURE_BLOB, module));
const StorageError = load("errors/StorageError").default;
const signing = load("authentication/IBlobSASSignatureValues");
const secret = Buffer.from(process.env.LOCAL_AZURE_TOKEN_SECRET || "", "hex");
const accessFile = process.env.LOCAL_AZURE_ACCESS;
const tenant = process.env.LOCAL_AZURE_TENANT;
delete process.env.LOCAL_AZURE_TOKEN_SECRET;

const everybody = { shared_key: true, role: true, network: true, anonymous: true };
const access = () => (accessFile ? JSON.parse(readFileSync(accessFile, "utf8")) : everybody);

const refused = {
  key: (id) =>
    new StorageError(403, "KeyBasedAuthenticationNotPermitted",
      "Key based authentication is not permitted on this storage account.", id),
  network: (id) =>
    new StorageError(403, "AuthorizationFailure", "This request is not authorized to perform this operation.", id),
  anonymous: (id) =>
    new StorageError(409, "PublicAccessNotPermitted", "Public access is not permitted on this storage account.", id),
  role: (id) =>
    new StorageError(403, "AuthorizationPermissionMismatch",
      "This request is not authorized to perform this operation using this permission.", id),
  token: (id, detail) => {
    const error = new StorageError(401, detail ? "InvalidAuthenticationInfo" : "NoAuthenticationInformation",
      "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
      id, detail ? { AuthenticationErrorDetail: detail } : {});
    error.headers["www-authenticate"] =
      `Bearer authorization_uri=https://login.microsoftonline.com/${tenant}/oauth2/authorize ` +
      "resource_id=https://storage.azure.com";
    return error;
  },
};

// Replace a method by one that is given the old one.
function wrap(type, name, replacement) {
  const original = type.prototype[name];
  type.prototype[name] = async function (...given) {
    return replacement(() => original.apply(this, given), ...given);
  };
}

const authorization = (request) => request.getHeader("authorization") || "";
const isAnonymous = (request) => !authorization(request) && request.getQuery("sig") === undefined;

wrap(load("authentication/PublicAccessAuthenticator").default, "validate", (original, request, context) => {
  if (!access().network) throw refused.network(context.contextId);
  if (isAnonymous(request) && !access().anonymous) throw refused.anonymous(context.contextId);
  return original();
});

wrap(load("authentication/BlobSharedKeyAuthenticator").default, "validate", (original, request, context) => {
  if (authorization(request).startsWith("SharedKey") && !access().shared_key) throw refused.key(context.contextId);
  return original();
});

for (const module of ["AccountSASAuthenticator", "BlobSASAuthenticator"])
  wrap(load(`authentication/${module}`).default, "validate", async (original, request, context) => {
    const byKey = request.getQuery("sig") !== undefined && request.getQuery("skoid") === undefined;
    if (byKey && !access().shared_key) throw refused.key(context.contextId);
    return original();
  });

wrap(load("authentication/BlobTokenAuthenticator").default, "validate", async (original, request, context) => {
  const header = authorization(request);
  const id = context.contextId;
  if (isAnonymous(request)) throw refused.token(id);
  if (!header.startsWith("Bearer ")) return original();
  verify(header.slice("Bearer ".length), id);
  let passed;
  try {
    passed = await original();
  } catch (error) {
    const [, detail] = /<AuthenticationErrorDetail>(.*)<\/AuthenticationErrorDetail>/.exec(error.body || "") || [];
    if (detail === undefined) throw error;
    throw refused.token(id, detail === "Invalid token audience." ? "Audience validation failed. Audience did not match." : detail);
  }
  if (passed && !access().role) throw refused.role(id);
  return passed;
});

// Raise the error of a token that is not of this tenant, or not signed by us.
function verify(token, id) {
  const [head, claims, signature] = token.split(".");
  let issuer;
  try {
    issuer = JSON.parse(Buffer.from(claims, "base64url").toString()).iss;
  } catch {
    throw refused.token(id, "IDX12741: JWT must have three segments (JWS) or five segments (JWE).");
  }
  if (issuer !== `https://sts.windows.net/${tenant}/`)
    throw refused.token(id, "Issuer validation failed. Issuer did not match.");
  const expected = createHmac("sha256", secret).update(`${head}.${claims}`).digest();
  const given = Buffer.from(signature || "", "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected))
    throw refused.token(id, "Signature validation failed. Signature verification failed.");
}

// Azurite derives user delegation keys from a seed that is public, and takes SAS signed with them also where it takes no
// tokens: any user of this machine could make one.
load("utils/constants").USERDELEGATIONKEY_SIGNING_SEED =
  createHmac("sha256", secret.length ? secret : randomBytes(32)).update("user delegation keys").digest("hex");

// Azure's responses all have a request id; this one has none.
wrap(load("handlers/ServiceHandler").default, "getUserDelegationKey", async (original, keyInfo, options, context) => ({
  ...(await original()), requestId: context.contextId, version: context.request.getHeader("x-ms-version"),
  date: context.startTime,
}));

// Version 2026-04-06 signs two more lines after the encryption scope: the headers (srh) and query parameters (srq) that
// the request must have. SAS with either are refused, as before.
const older = signing.generateBlobSASSignatureWithUDK;
signing.generateBlobSASSignatureWithUDK = (values, resource, account, key) => {
  const [signature, text] = older(values, resource, account, key);
  if (values.version < "2026-04-06") return [signature, text];
  const lines = text.split("\n");
  lines.splice(-5, 0, "", "");
  const longer = lines.join("\n");
  return [createHmac("sha256", key).update(longer, "utf8").digest("base64"), longer];
};
