// The one thing that HTML can't do: ask the browser for a passkey (W3C Web
// Authentication, level 3). Everything else on the pages works without this.
"use strict";

const decode = (s) => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));

const encode = (buffer) => {
	if (!buffer) return undefined;
	let s = "";
	for (const byte of new Uint8Array(buffer)) s += String.fromCharCode(byte);
	return btoa(s).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
};

// Browsers of before 2025 have no parse…FromJSON: the same by hand, as far as we
// use it.
const parse = (json, create) => {
	const known = create ? "parseCreationOptionsFromJSON" : "parseRequestOptionsFromJSON";
	if (PublicKeyCredential[known]) return PublicKeyCredential[known](json);
	const ids = (list) => (list || []).map((c) => ({ ...c, id: decode(c.id) }));
	const options = { ...json, challenge: decode(json.challenge) };
	delete options.extensions;
	delete options.hints;
	if (create) {
		options.user = { ...json.user, id: decode(json.user.id) };
		options.excludeCredentials = ids(json.excludeCredentials);
	} else {
		options.allowCredentials = ids(json.allowCredentials);
	}
	return options;
};

const serialize = (credential) => {
	try {
		return JSON.stringify(credential.toJSON());
	} catch (e) {
		// An older browser, or an extension that stands in for it.
	}
	const r = credential.response;
	return JSON.stringify({
		id: credential.id,
		rawId: encode(credential.rawId),
		type: credential.type,
		authenticatorAttachment: credential.authenticatorAttachment || undefined,
		clientExtensionResults: credential.getClientExtensionResults(),
		response: {
			clientDataJSON: encode(r.clientDataJSON),
			attestationObject: encode(r.attestationObject),
			transports: r.getTransports ? r.getTransports() : undefined,
			authenticatorData: encode(r.authenticatorData || (r.getAuthenticatorData && r.getAuthenticatorData())),
			signature: encode(r.signature),
			userHandle: encode(r.userHandle),
		},
	});
};

const explain = (e, create) => {
	switch (e.name) {
	case "NotAllowedError":
	case "AbortError":
		return "That was cancelled, or took too long. You can try again.";
	case "InvalidStateError":
		return create ? "This device holds a passkey for your account already." : "This passkey is not one of your account’s.";
	case "SecurityError":
		return "The browser refuses passkeys under this address.";
	default:
		return "The browser could not do it: " + e.message;
	}
};

for (const part of document.querySelectorAll("[data-passkey]")) {
	const create = part.dataset.passkey === "create";
	const field = part.querySelector("input");
	const button = part.querySelector("button");
	const status = part.querySelector("[role=status]");
	const say = (text, state) => {
		status.textContent = text;
		part.dataset.state = state || "";
	};
	if (!window.PublicKeyCredential || !navigator.credentials) {
		say("This browser has no passkeys.");
		continue;
	}
	say(field.value ? part.dataset.ready : "", field.value ? "ready" : "");
	button.hidden = false;
	button.addEventListener("click", async () => {
		const form = part.closest("form");
		// A form that goes off at once must be complete but for the code.
		if (!part.dataset.ready && !form.reportValidity()) return;
		button.disabled = true;
		say("Waiting for your browser…");
		try {
			const json = JSON.parse(part.dataset.options);
			const publicKey = parse(json.publicKey || json, create);
			const credential = await (create ? navigator.credentials.create({ publicKey }) : navigator.credentials.get({ publicKey }));
			field.value = serialize(credential);
			say(part.dataset.ready, "ready");
			if (!part.dataset.ready) {
				form.submit();
				return;
			}
		} catch (e) {
			say(explain(e, create), "failed");
		}
		button.disabled = false;
		button.focus();
	});
}
