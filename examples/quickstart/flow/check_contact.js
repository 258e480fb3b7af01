// Refuses what the CRM should never see, and tidies up the rest.
export const code = async ({ contact }) => {
  if (contact === null || typeof contact !== "object" || Array.isArray(contact)) {
    throw new Error("the body must be a JSON object");
  }
  const email = String(contact.email ?? "").trim().toLowerCase();
  if (!/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(email)) {
    throw new Error("`email` is not an e-mail address");
  }
  return { email, name: String(contact.name ?? "").trim() };
};
